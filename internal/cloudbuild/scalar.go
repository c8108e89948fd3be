package cloudbuild

import (
	"regexp"
	"strconv"
	"strings"
)

// A plain (unquoted) scalar means what YAML 1.1 says, because gcloud reads build files so: "y" is a boolean, "1.10" a float, "22:22" a
// number to the base of 60. No Go package reads plain scalars that way; the patterns are those of the YAML 1.1 type repository
// (yaml.org/type/).
type scalarType string

const (
	typeString    scalarType = "a string"
	typeNull      scalarType = "null"
	typeBool      scalarType = "a boolean"
	typeInt       scalarType = "an integer"
	typeFloat     scalarType = "a float"
	typeTimestamp scalarType = "a date"
)

var plainScalars = []struct {
	is      scalarType
	pattern *regexp.Regexp
}{
	{typeNull, regexp.MustCompile(`^(?:~|null|Null|NULL|)$`)},
	{typeBool, regexp.MustCompile(`^(?:y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)},
	{typeInt, regexp.MustCompile(`^(?:[-+]?0b[0-1_]+|[-+]?0?[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+` +
		`|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)},
	{typeFloat, regexp.MustCompile(`^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+` +
		`|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)},
	{typeTimestamp, regexp.MustCompile(`^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}` +
		`|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)$`)},
}

// plainType says what an unquoted scalar is in YAML 1.1.
func plainType(s string) scalarType {
	for _, p := range plainScalars {
		// "_" and "-_" match the pattern of octal numbers, but a number begins with a digit.
		if p.pattern.MatchString(s) && (p.is != typeInt || strings.ContainsAny(s, "0123456789")) {
			return p.is
		}
	}
	return typeString
}

// plainBool reads a scalar of typeBool.
func plainBool(s string) bool {
	switch strings.ToLower(s) {
	case "y", "yes", "true", "on":
		return true
	}
	return false
}

// plainInt reads a scalar of typeInt: decimal, 0b binary, 0x hexadecimal, 0 octal, or minutes and seconds to the base of 60.
func plainInt(s string) (int64, error) {
	s = strings.ReplaceAll(s, "_", "")
	if strings.Contains(s, ":") {
		sign, digits := int64(1), strings.TrimPrefix(s, "+")
		if rest, negative := strings.CutPrefix(digits, "-"); negative {
			sign, digits = -1, rest
		}
		var n int64
		for part := range strings.SplitSeq(digits, ":") {
			i, err := strconv.ParseInt(part, 10, 32)
			if err != nil {
				return 0, err
			}
			n = n*60 + i
		}
		return sign * n, nil
	}
	return strconv.ParseInt(s, 0, 64)
}
