package release

import "testing"

func TestRaiseResetsWhatIsRightOfTheRaisedNumber(t *testing.T) {
	for _, tt := range []struct {
		name, from string
		bump       Bump
		zeroMajor  bool
		want       string
	}{
		{"a patch", "v1.42.1", Patch, false, "v1.42.2"},
		{"a feature", "v1.42.1", Minor, false, "v1.43.0"},
		{"a breaking change", "v1.42.1", Major, false, "v2.0.0"},
		{"nothing", "v1.42.1", None, false, "v1.42.1"},
		{"a breaking change below v1 leads to v1", "v0.4.2", Major, false, "v1.0.0"},
		{"a breaking change below v1 stays minor when asked", "v0.4.2", Major, true, "v0.5.0"},
		{"a feature below v1 stays a feature", "v0.4.2", Minor, true, "v0.5.0"},
		{"a patch below v1 stays a patch", "v0.4.2", Patch, true, "v0.4.3"},
		{"the rule for v0 ends at v1", "v1.0.0", Major, true, "v2.0.0"},
		{"numbers are not digits", "v1.9.9", Minor, false, "v1.10.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := mustParse(t, tt.from).Raise(tt.bump, tt.zeroMajor).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestBetweenIsTheLeftmostDifference(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     Bump
	}{
		{"v1.42.1", "v1.42.2", Patch}, {"v1.42.1", "v1.43.0", Minor}, {"v1.42.1", "v2.0.0", Major}, {"v1.42.1", "v2.0.0-rc.3", Major},
		{"v1.42.1", "v1.42.1", None}, {"v1.42.1", "v1.42.1-rc.1", None}, {"v2.0.0", "v1.9.9", None},
	} {
		if got := Between(mustParse(t, tt.from), mustParse(t, tt.to)); got != tt.want {
			t.Errorf("Between(%s, %s) = %s, want %s", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestBumpsAreReadAsTheyAreWritten(t *testing.T) {
	for b := None; b <= Major; b++ {
		var back Bump
		if err := back.UnmarshalText([]byte(b.String())); err != nil || back != b {
			t.Errorf("%s: %s, %v", b, back, err)
		}
	}
	var b Bump
	for _, bad := range []string{"", "PATCH", "tiny", "patch "} {
		if b.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q was read as %s", bad, b)
		}
	}
	if !(None < Patch && Patch < Minor && Minor < Major) {
		t.Error("bumps are out of order")
	}
}
