package cloudbuild

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A StepContract is what a step's program says of itself with -describe: the variables it reads and the results it leaves. Members of
// the JSON that are not needed to check a build file are left out here.
type StepContract struct {
	Name      string     `json:"name"`
	Variables []Variable `json:"variables"`
	Outputs   []Output   `json:"outputs"`
}

// A Variable is an environment variable that a step reads under its name, or else under its name with an underscore before it.
type Variable struct {
	Name     string   `json:"name"`
	Default  string   `json:"default"`
	Required bool     `json:"required"`
	Secret   bool     `json:"secret"`
	From     []string `json:"from"`    // tried in order when the variable is unset: another variable, or step.field
	Choices  []string `json:"choices"` // the only values allowed; empty: any
}

// An Output is a field that a step hands over.
type Output struct {
	Name string `json:"name"`
}

// programEnv are variables that a program's libraries read, whatever its contract says.
var programEnv = []string{"HOME", "PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"http_proxy", "https_proxy", "no_proxy", "DOCKER_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS"}

// CheckContracts compares the environment of each step with what its program reads. The key of contracts is the last element of the
// step's image name, without tag and digest; steps whose image is not among them are taken as they are. given are the substitutions
// that the trigger will add.
//
// It reports names that a step does not know, required variables that nothing sets, values that are none of the choices (where the file
// holds the value itself), and secrets that are set in the open. b must come from [Parse], before its substitution.
func (b *Build) CheckContracts(contracts map[string]StepContract, given map[string]string) Faults {
	c := &contractCheck{build: b, user: b.userValues(given), contracts: make([]*StepContract, len(b.Steps))}
	for i := range b.Steps {
		if contract, ok := contracts[ImageBase(b.Image(i, given))]; ok {
			c.contracts[i] = &contract
		}
	}
	_, before := b.order()
	for i := range b.Steps {
		if c.contracts[i] != nil {
			c.step(i, before[i])
		}
	}
	c.shared()
	c.faults.sort()
	return c.faults
}

// userValues are the file's substitutions and those given from outside, unexpanded.
func (b *Build) userValues(given map[string]string) map[string]string {
	user := map[string]string{}
	maps.Copy(user, b.Substitutions)
	for k, v := range given {
		if userKey.MatchString(k) {
			user[k] = v
		}
	}
	return user
}

// Image is the image of step i as far as it is known before the build is substituted: references to anything but the file's own
// substitutions and the given ones are left out. That is enough to tell which program it is.
func (b *Build) Image(i int, given map[string]string) string {
	user := b.userValues(given)
	return substitute(b.Steps[i].Name, func(key string) string { return user[key] })
}

// ImageBase is the last element of an image's name, without tag and digest: "gate-uat" for "europe-docker.pkg.dev/p/steps/gate-uat:v1".
func ImageBase(image string) string {
	image = ImageRepository(image)
	return image[strings.LastIndex(image, "/")+1:]
}

// ImageRepository is an image's name without tag and digest.
func ImageRepository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	return image
}

type contractCheck struct {
	build     *Build
	user      map[string]string // the file's substitutions and the trigger's
	contracts []*StepContract   // by step; nil for a step that is not ours
	faults    Faults
}

func (c *contractCheck) fault(path, format string, args ...any) {
	c.faults = append(c.faults, c.build.document.find(path, format, args...))
}

// A setting is a variable as the build sets it for a step.
type setting struct {
	value   string
	literal bool // the file holds the value itself
	secret  bool // set by secretEnv
	path    string
}

// settings is the environment of step i by variable, with the precedence of [Build.Env].
func (c *contractCheck) settings(i int) map[string]setting {
	b, all := c.build, map[string]setting{}
	if b.Automaps(i) {
		for k := range builtInKeys {
			all[k] = setting{}
		}
		for k, v := range c.user {
			all[k] = c.plain(v, ".substitutions."+k)
		}
	}
	for j, e := range b.Options.Env {
		k, v, _ := strings.Cut(e, "=")
		all[k] = c.plain(v, fmt.Sprintf(".options.env[%d]", j))
	}
	for j, e := range b.Steps[i].Env {
		k, v, _ := strings.Cut(e, "=")
		all[k] = c.plain(v, fmt.Sprintf(".steps[%d].env[%d]", i, j))
	}
	for _, k := range b.SecretEnv(i) {
		all[k] = setting{secret: true}
	}
	return all
}

func (c *contractCheck) plain(value, path string) setting {
	literal := !operation.MatchString(value)
	for r := range references(value) {
		literal = literal && r.key == ""
	}
	return setting{value: substitute(value, func(string) string { return "" }), literal: literal, path: path}
}

func (c *contractCheck) step(i int, before map[int]bool) {
	contract, settings := c.contracts[i], c.settings(i)
	at := fmt.Sprintf(".steps[%d]", i)
	known := contract.names()
	for j, e := range c.build.Steps[i].Env {
		if k, _, _ := strings.Cut(e, "="); !knows(known, k) {
			c.fault(fmt.Sprintf("%s.env[%d]", at, j), "%s does not know the variable %s%s", contract.Name, k, didYouMean(k, known))
		}
	}
	for j, k := range c.build.Steps[i].SecretEnv {
		if !knows(known, k) {
			c.fault(fmt.Sprintf("%s.secretEnv[%d]", at, j), "%s does not know the variable %s%s", contract.Name, k, didYouMean(k, known))
		}
	}
	for _, v := range contract.Variables {
		s, set := lookUp(settings, v.Name)
		switch {
		case !set && v.Required && v.Default == "" && !c.fallsBack(v, settings, before):
			c.fault(at, "%s requires %s, which nothing sets", contract.Name, v.Name)
		case set && v.Secret && !s.secret:
			c.fault(s.path, "%s is a secret: name it in secretEnv, where no log and no build record shows it", v.Name)
		case set && s.literal && len(v.Choices) > 0 && !slices.Contains(v.Choices, s.value):
			c.fault(s.path, "%q is no value of %s: use %s", s.value, v.Name, strings.Join(v.Choices, ", "))
		}
	}
}

// lookUp finds a variable as a step does: NAME, then _NAME, and empty is unset.
func lookUp(settings map[string]setting, name string) (setting, bool) {
	for _, n := range []string{name, "_" + name} {
		if s, ok := settings[n]; ok && !(s.literal && s.value == "") {
			return s, true
		}
	}
	return setting{}, false
}

// fallsBack reports whether one of a variable's fallbacks can have a value: another variable, or a field of a step that is done before.
func (c *contractCheck) fallsBack(v Variable, settings map[string]setting, before map[int]bool) bool {
	return slices.ContainsFunc(v.From, func(from string) bool {
		step, field, isField := strings.Cut(from, ".")
		if !isField {
			_, set := lookUp(settings, from)
			return set
		}
		for j := range before {
			if other := c.contracts[j]; other != nil && other.Name == step && other.hasOutput(field) {
				return true
			}
		}
		return false
	})
}

// shared looks at what all steps get: options.env, and substitutions that arrive by automapSubstitutions. A name there must mean
// something to one step at least. Nothing can be said where a step that is not ours might read it.
func (c *contractCheck) shared() {
	var known []string
	automaps := false
	for i, contract := range c.contracts {
		if contract == nil {
			return
		}
		known = append(known, contract.names()...)
		automaps = automaps || c.build.Automaps(i)
	}
	for j, e := range c.build.Options.Env {
		if k, _, _ := strings.Cut(e, "="); !knows(known, k) {
			c.fault(fmt.Sprintf(".options.env[%d]", j), "no step knows the variable %s%s", k, didYouMean(k, known))
		}
	}
	if !automaps {
		return
	}
	used := c.build.references(c.user)
	for i, k := range known {
		known[i] = "_" + k
	}
	for _, k := range slices.Sorted(maps.Keys(c.user)) {
		if !used[k] && !slices.Contains(known, k) {
			c.fault(".substitutions."+k, "no field uses the substitution %s and no step knows such a variable%s", k, didYouMean(k, known))
		}
	}
}

func (s StepContract) hasOutput(name string) bool {
	return slices.ContainsFunc(s.Outputs, func(o Output) bool { return o.Name == name })
}

// names lists every variable that a step may be given.
func (s StepContract) names() []string {
	var names []string
	for _, v := range s.Variables {
		names = append(names, v.Name)
		for _, from := range v.From {
			if !strings.Contains(from, ".") {
				names = append(names, from)
			}
		}
	}
	return names
}

// knows accepts a step's own names with and without the underscore, the service's built-in names, and what any program may read.
func knows(names []string, k string) bool {
	_, builtIn := builtInKeys[k]
	return builtIn || slices.Contains(programEnv, k) || slices.Contains(names, k) ||
		(strings.HasPrefix(k, "_") && slices.Contains(names, k[1:]))
}
