package cluster

import (
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestAMarkIsReadBackFromItsOwnRevisionOnly(t *testing.T) {
	m := Mark{
		Digest: strings.Repeat("a", 40), Build: "2f3e9c1a-0000-4000-8000-000000000000", Commit: strings.Repeat("c", 40),
		Committed: time.Unix(1700000000, 0).UTC(), Version: "v1.1.0-rc.1", Until: time.Unix(1700003600, 0).UTC(),
		Source: "0123456789abcdef", Account: "maple",
	}
	set := m.labels(7)
	for k, v := range set {
		if errs := validation.IsValidLabelValue(v); len(errs) > 0 {
			t.Errorf("%s=%s: %v", k, v, errs)
		}
		if errs := validation.IsQualifiedName(k); len(errs) > 0 {
			t.Errorf("%s: %v", k, errs)
		}
	}
	if diff := cmp.Diff(m, markOf(set, 7)); diff != "" {
		t.Error(diff)
	}
	// helm upgrade and helm rollback copy the labels of the revision before.
	if diff := cmp.Diff(Mark{}, markOf(set, 8)); diff != "" {
		t.Errorf("labels that were copied count: %s", diff)
	}
	if diff := cmp.Diff(Mark{}, markOf(nil, 0)); diff != "" {
		t.Error(diff)
	}
}

func TestAnyTextFitsIntoALabel(t *testing.T) {
	for text, want := range map[string]string{
		"1.0.0+0123456789ab":           "1.0.0_0123456789ab",
		"-x-":                          "x",
		"ä":                            "",
		strings.Repeat("a", 80):        strings.Repeat("a", 63),
		strings.Repeat("a", 62) + ".b": strings.Repeat("a", 62),
	} {
		got := labelValue(text)
		if errs := validation.IsValidLabelValue(got); got != want || len(errs) > 0 {
			t.Errorf("%q: %q, want %q, %v", text, got, want, errs)
		}
	}
}

func FuzzLabelValue(f *testing.F) {
	f.Add("1.0.0+x")
	f.Fuzz(func(t *testing.T, s string) {
		if errs := validation.IsValidLabelValue(labelValue(s)); len(errs) > 0 {
			t.Errorf("%q: %v", s, errs)
		}
	})
}

func secretOf(revision int, status string, labels map[string]string) *metav1.PartialObjectMetadata {
	set := map[string]string{"owner": "helm", "name": "backend", "version": strconv.Itoa(revision), "status": status}
	maps.Copy(set, labels)
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: recordName("backend", revision), Namespace: "n", Labels: set}}
}

func TestASecretThatBorrowsHelmsLabelsIsNoRecord(t *testing.T) {
	for name, o := range map[string]*metav1.PartialObjectMetadata{
		"another name":    {ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"owner": "helm", "name": "backend", "version": "1"}}},
		"no version":      {ObjectMeta: metav1.ObjectMeta{Name: recordName("backend", 1), Labels: map[string]string{"owner": "helm", "name": "backend"}}},
		"another version": {ObjectMeta: metav1.ObjectMeta{Name: recordName("backend", 1), Labels: map[string]string{"owner": "helm", "name": "backend", "version": "2"}}},
		"no release name": {ObjectMeta: metav1.ObjectMeta{Name: recordName("", 1), Labels: map[string]string{"owner": "helm", "version": "1"}}},
	} {
		if r, ok := recordOf(o); ok {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestTheStateOfAReleaseFollowsFromItsRevisionsInAnyOrder(t *testing.T) {
	for _, tt := range []struct {
		name            string
		statuses        []string // of revision 1, 2, …
		newest, running int
	}{
		{"never deployed", nil, 0, 0},
		{"deployed once", []string{"deployed"}, 1, 1},
		{"upgraded", []string{"superseded", "deployed"}, 2, 2},
		{"the last attempt failed", []string{"superseded", "deployed", "failed"}, 3, 2},
		{"rolled back", []string{"superseded", "failed", "deployed"}, 3, 3},
		{"the first attempt failed", []string{"failed"}, 1, 0},
		{"killed between the last two writes of an upgrade", []string{"superseded", "superseded", "pending-upgrade"}, 3, 2},
		{"two count as deployed", []string{"deployed", "deployed"}, 2, 2},
		{"uninstalled", []string{"superseded", "uninstalled"}, 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, backwards := range []bool{false, true} {
				var s State
				for i := range tt.statuses {
					if backwards {
						i = len(tt.statuses) - 1 - i
					}
					r, ok := recordOf(secretOf(i+1, tt.statuses[i], nil))
					if !ok {
						t.Fatal("no record")
					}
					s.add(r)
				}
				if s.Newest.Revision != tt.newest || s.Running.Revision != tt.running {
					t.Errorf("newest %d, running %d, want %d and %d", s.Newest.Revision, s.Running.Revision, tt.newest, tt.running)
				}
			}
		})
	}
}
