package benchreport

import "testing"

func TestASectionTakesThePlaceOfItsPredecessor(t *testing.T) {
	const a, b, c = "## a\n\nold\n", "## b\n\n### of b\n", "## c\n\nlast\n"
	for name, tt := range map[string]struct{ text, section, want string }{
		"in the middle":                   {"# T\n\n" + a + "\n" + b + "\n" + c, "## b\n\nnew", "# T\n\n" + a + "\n## b\n\nnew\n\n" + c},
		"at the end":                      {"# T\n\n" + a + "\n" + b, "## b\n\nnew\n\n", "# T\n\n" + a + "\n## b\n\nnew\n"},
		"a new one":                       {"# T\n\n" + a, c, "# T\n\n" + a + "\n" + c},
		"the first of a file":             {a + "\n" + b, "## a\n\nnew\n", "## a\n\nnew\n\n" + b},
		"one whose name begins the other": {"# T\n\n## bc\n\nx\n", b, "# T\n\n## bc\n\nx\n\n" + b},
	} {
		t.Run(name, func(t *testing.T) {
			if got := replace(tt.text, tt.section); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
