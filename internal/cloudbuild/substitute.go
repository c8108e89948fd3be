package cloudbuild

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Mode is the way a build is started; substitutions follow other rules in each.
type Mode int

const (
	// ModeSubmit is `gcloud builds submit`: every substitution must match unless options.substitutionOption is ALLOW_LOOSE, and
	// expansions in substitution values work with options.dynamicSubstitutions only.
	ModeSubmit Mode = iota
	// ModeTrigger is a build started by a trigger: always ALLOW_LOOSE, always dynamic, whatever the options say.
	ModeTrigger
)

// builtInKeys are the substitutions that the service knows. Those marked true may be given to gcloud builds submit by --substitutions.
var builtInKeys = map[string]bool{
	"PROJECT_ID": false, "PROJECT_NUMBER": false, "BUILD_ID": false, "LOCATION": false,
	"TRIGGER_NAME": true, "COMMIT_SHA": true, "REVISION_ID": true, "SHORT_SHA": true, "REPO_NAME": true, "REPO_FULL_NAME": true,
	"BRANCH_NAME": true, "TAG_NAME": true, "REF_NAME": true, "TRIGGER_BUILD_CONFIG_PATH": true,
	"SERVICE_ACCOUNT_EMAIL": true, "SERVICE_ACCOUNT": true,
}

// Values is what a build is given from outside its file.
type Values struct {
	// BuiltIn are the built-in substitutions, as [Context.BuiltIns] makes them. They are used as they are; one that is missing is empty.
	BuiltIn map[string]string
	// Given are the substitutions of --substitutions or of the trigger. They beat the file's own.
	Given map[string]string
}

// Substitute fills in the substitutions. The error is of type [Faults], with the service's own words.
//
// Fields take $KEY and ${KEY} only. Values of user substitutions may refer to others and hold bash's parameter expansions where the
// mode or the options allow that; values that come with the event are never expanded, since a branch name is the text of a stranger.
func (b *Build) Substitute(mode Mode, values Values) (*Build, error) {
	s := &substituter{
		build:   b,
		dynamic: mode == ModeTrigger || b.Options.DynamicSubstitutions,
		loose:   mode == ModeTrigger || b.Options.SubstitutionOption == "ALLOW_LOOSE",
		builtIn: map[string]string{},
		user:    maps.Clone(b.Substitutions),
		values:  map[string]string{},
		used:    map[string]bool{},
	}
	if s.user == nil {
		s.user = map[string]string{}
	}
	for k := range builtInKeys {
		s.builtIn[k] = ""
	}
	maps.Copy(s.builtIn, values.BuiltIn)
	s.give(values.Given)
	for _, k := range slices.Sorted(maps.Keys(s.user)) {
		_, _ = s.value(k) // the fault of an unused value is a fault, too
	}
	root := b.document.rewrite("Build", s.field)
	s.unused(values.Given)
	if err := s.faults.err(); err != nil {
		return nil, err
	}

	out := &Build{Warnings: b.Warnings, builtIns: s.builtIn, document: document{root, b.document.lines}}
	if err := root.Decode(out); err != nil {
		return nil, fmt.Errorf("decoding the substituted file: %w", err)
	}
	out.Substitutions = s.values
	for i, step := range out.Steps {
		if !imageName.MatchString(step.Name) {
			s.fault(fmt.Sprintf(".steps[%d].name", i), "invalid build step name %q", step.Name)
		}
	}
	if err := s.faults.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// Undefined lists the user substitutions that the build refers to and the file does not define: a trigger or --substitutions must give
// them.
func (b *Build) Undefined() []string {
	var missing []string
	for _, k := range slices.Sorted(maps.Keys(b.references(b.Substitutions))) {
		if _, defined := b.Substitutions[k]; !defined && userKey.MatchString(k) {
			missing = append(missing, k)
		}
	}
	return missing
}

// references are the keys to which the build's fields and the given substitution values refer.
func (b *Build) references(values map[string]string) map[string]bool {
	keys := map[string]bool{}
	b.document.rewrite("Build", func(text, _ string) string {
		for r := range references(text) {
			keys[r.key] = true
		}
		return text
	})
	for _, v := range values {
		for r := range references(v) {
			keys[r.key] = true
		}
		for _, m := range operation.FindAllStringSubmatch(v, -1) {
			keys[m[1]] = true
		}
	}
	return keys
}

type substituter struct {
	build          *Build
	dynamic, loose bool
	builtIn        map[string]string
	user           map[string]string // as written
	values         map[string]string // of user, expanded
	open           []string          // keys that are being expanded, to find circles
	used           map[string]bool
	faults         Faults
}

func (s *substituter) fault(path, format string, args ...any) {
	s.faults = append(s.faults, s.build.document.find(path, format, args...))
}

// give adds the values from outside, each where it belongs.
func (s *substituter) give(given map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(given)) {
		mayGive, isBuiltIn := builtInKeys[k]
		switch {
		case isBuiltIn && mayGive:
			s.builtIn[k] = given[k]
		case isBuiltIn:
			s.fault("", "substitution %s is set by the service and cannot be given", k)
		case !userKey.MatchString(k):
			s.fault("", "substitution key %q does not respect format %q and is not an overridable built-in substitution", k, userKey)
		case len(k) > maxKey || len(given[k]) > maxValue:
			s.fault("", "substitution %.100s: a key is at most %d bytes long, a value %d", k, maxKey, maxValue)
		default:
			delete(s.builtIn, k) // a key such as _PR_NUMBER that comes with pull requests
			s.user[k] = given[k]
		}
	}
}

// value is what stands for a key. Only a key that nothing defines is an error; what is wrong with the value of a defined one is a fault
// at its definition, and it counts as empty.
func (s *substituter) value(key string) (string, error) {
	s.used[key] = s.used[key] || len(s.open) > 0
	if v, ok := s.builtIn[key]; ok {
		return v, nil
	}
	raw, defined := s.user[key]
	if v, done := s.values[key]; done {
		return v, nil
	}
	switch {
	case !defined && !userKey.MatchString(key):
		return "", notBuiltInError{key}
	case !defined && !s.loose:
		return "", fmt.Errorf("key in the template %q is not matched in the substitution data", key)
	case !defined:
		return "", nil
	case slices.Contains(s.open, key):
		return "", fmt.Errorf("the value refers to itself, by way of %s", strings.Join(s.open, ", "))
	case s.dynamic:
		s.open = append(s.open, key)
		v, err := expansion{s.value}.text(raw)
		s.open = s.open[:len(s.open)-1]
		if err != nil {
			s.fault(".substitutions."+key, "%s", err)
		}
		raw = v
	}
	s.values[key] = raw
	return raw, nil
}

// A notBuiltInError is a reference that can have no value in any build, in the service's words.
type notBuiltInError struct{ key string }

func (e notBuiltInError) Error() string {
	return fmt.Sprintf("key in the template %q is not a valid built-in substitution (for $%[1]s itself write $$%[1]s)", e.key)
}

// field substitutes the text of one field.
func (s *substituter) field(text, path string) string {
	return substitute(text, func(key string) string {
		v, err := s.value(key)
		if err != nil {
			s.fault(path, "%s", err)
		}
		s.used[key] = true
		return v
	})
}

// unused reports substitutions that nothing uses, which the service does not allow where all must match. automapSubstitutions uses all:
// Google's documentation shows it with scripts alone. A built-in counts when it was given by hand.
func (s *substituter) unused(given map[string]string) {
	if s.loose {
		return
	}
	for i := range s.build.Steps {
		if s.build.Automaps(i) {
			return
		}
	}
	keys := slices.Collect(maps.Keys(s.user))
	for k := range given {
		if builtInKeys[k] {
			keys = append(keys, k)
		}
	}
	for _, k := range slices.Sorted(slices.Values(keys)) {
		if !s.used[k] {
			s.fault(".substitutions."+k, "key %q in the substitution data is not matched in the template", k)
		}
	}
}
