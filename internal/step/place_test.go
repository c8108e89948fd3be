package step

import "testing"

func TestAPlaceIsARepositoryOrAFolder(t *testing.T) {
	for text, want := range map[string]struct{ ok, folder bool }{
		"europe-docker.pkg.dev/my-cloud/backup/backend": {true, false},
		"127.0.0.1:5000/backup":                         {true, false},
		"/workspace/backup":                             {true, true},
		"./backup":                                      {true, true},
		"backup":                                        {false, false}, // a folder of that name is written ./backup
		"gs://bucket/backup":                            {false, false},
		"europe-docker.pkg.dev/my-cloud/backup/backend:v1.0.0": {false, false},
		"../backup": {false, false},
	} {
		var p Place
		if err := p.UnmarshalText([]byte(text)); (err == nil) != want.ok || p.IsFolder() != want.folder {
			t.Errorf("%s: folder %v, %v", text, p.IsFolder(), err)
		}
	}
}
