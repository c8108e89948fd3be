package cloudbuild

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// maxTimeout of a build and of a step; maxKey and maxValue of a substitution, in bytes; maxSecret of a KMS secret: the archived
	// local builder's.
	maxTimeout = 24 * time.Hour
	maxKey     = 100
	maxValue   = 4000
	maxSecret  = 64 << 10

	imagePart = `[a-z0-9]+(?:[._-]+[a-z0-9]+)*`
)

var (
	userKey    = regexp.MustCompile(`^_[A-Z0-9_]+$`)
	volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
	// imageName follows the grammar of Docker references: [host[:port]/]path[:tag][@digest], the path in lower case.
	imageName = regexp.MustCompile(`^(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?/)?` + imagePart + `(?:/` + imagePart + `)*` +
		`(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$`)
)

// A checker holds a build to the rules that gcloud leaves to the service.
type checker struct {
	build  *Build
	reader *reader
}

func (c *checker) fault(path, format string, args ...any) {
	c.reader.add(c.build.document.find(path, format, args...))
}

func (c *checker) check() {
	b := c.build
	if len(b.Steps) == 0 {
		c.fault(".steps", "no build steps are specified")
	}
	c.timeout(".timeout", b.Timeout)
	c.substitutions()
	c.references()
	c.env(".options.env", b.Options.Env)
	c.volumes()
	c.secrets()
	known := map[string]bool{startOfBuild: true}
	for i, s := range b.Steps {
		at := fmt.Sprintf(".steps[%d]", i)
		c.step(s, at)
		for j, id := range s.WaitFor {
			if !known[id] {
				c.fault(fmt.Sprintf("%s.waitFor[%d]", at, j), "no earlier step has the id %q%s", id, didYouMean(id, slices.Collect(maps.Keys(known))))
			}
		}
		switch {
		case s.ID == startOfBuild:
			c.fault(at+".id", `"-" is reserved: it stands for the start of the build`)
		case s.ID != "" && known[s.ID]:
			c.fault(at+".id", "the id %q is not unique", s.ID)
		case s.ID != "":
			known[s.ID] = true
		}
	}
	if b.ServiceAccount != "" && b.LogsBucket == "" && b.Options.DefaultLogsBucketBehavior == "" &&
		b.Options.Logging != "CLOUD_LOGGING_ONLY" && b.Options.Logging != "NONE" {
		b.Warnings = append(b.Warnings, b.document.find(".serviceAccount", "with a service account of its own a build must say where its log goes: "+
			"set logsBucket, options.defaultLogsBucketBehavior, or options.logging to CLOUD_LOGGING_ONLY or NONE"))
	}
}

func (c *checker) step(s Step, at string) {
	if s.Name == "" {
		c.fault(at+".name", "missing: every step names its builder image")
	}
	if s.Script != "" && (len(s.Args) > 0 || s.Entrypoint != "") {
		c.fault(at+".script", "script excludes args and entrypoint")
	}
	c.env(at+".env", s.Env)
	c.timeout(at+".timeout", s.Timeout)
	if total := c.build.Timeout; total > 0 && s.Timeout > total {
		c.fault(at+".timeout", "the step's timeout %v is longer than the build's, %v", s.Timeout, total)
	}
}

func (c *checker) timeout(at string, d time.Duration) {
	if d < 0 || d > maxTimeout {
		c.fault(at, "the timeout must lie between 0s and %v", maxTimeout)
	}
}

func (c *checker) env(at string, entries []string) {
	for i, e := range entries {
		if strings.Index(e, "=") < 1 {
			c.fault(fmt.Sprintf("%s[%d]", at, i), "%q must be of the form KEY=VALUE", e)
		}
	}
}

func (c *checker) substitutions() {
	for _, k := range slices.Sorted(maps.Keys(c.build.Substitutions)) {
		at := ".substitutions." + k
		if !userKey.MatchString(k) {
			c.fault(at, "a substitution of one's own must match %s", userKey)
		}
		if len(k) > maxKey || len(c.build.Substitutions[k]) > maxValue {
			c.fault(at, "a substitution's key is at most %d bytes long, its value %d", maxKey, maxValue)
		}
	}
}

// references finds what can have no value in any mode.
func (c *checker) references() {
	c.build.document.rewrite("Build", func(text, path string) string {
		for r := range references(text) {
			if _, builtIn := builtInKeys[r.key]; r.key != "" && !builtIn && !userKey.MatchString(r.key) {
				c.fault(path, "%s", notBuiltInError{r.key})
			}
		}
		return text
	})
}

// volumes follows the archived local builder: a volume serves to share, so at least two steps must use it.
func (c *checker) volumes() {
	b := c.build
	if len(b.Options.Volumes) > 0 && len(b.Steps) < 2 {
		c.fault(".options.volumes", "a volume for all steps is of no use to a build of one step")
	}
	c.volumeList(".options.volumes", b.Options.Volumes, nil)
	users := map[string][]string{}
	for i, s := range b.Steps {
		at := fmt.Sprintf(".steps[%d].volumes", i)
		c.volumeList(at, s.Volumes, b.Options.Volumes)
		for _, v := range s.Volumes {
			users[v.Name] = append(users[v.Name], at)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		if len(users[name]) < 2 {
			c.fault(users[name][0], "volume %q is only used by one step", name)
		}
	}
}

func (c *checker) volumeList(at string, volumes, global []Volume) {
	others := slices.Clone(global)
	for i, v := range volumes {
		here := fmt.Sprintf("%s[%d]", at, i)
		p := path.Clean(v.Path)
		if !volumeName.MatchString(v.Name) {
			c.fault(here, "volume name %q does not match %s", v.Name, volumeName)
		}
		switch {
		case !path.IsAbs(p):
			c.fault(here, "volume path %q must be absolute", v.Path)
		case p == "/workspace", p == "/builder/home", p == "/var/run/docker.sock", strings.HasPrefix(p, "/cloudbuild/"):
			c.fault(here, "volume path %q is reserved", v.Path)
		}
		for _, o := range others {
			if v.Name == o.Name || p == path.Clean(o.Path) {
				c.fault(here, "volume %q at %q clashes with another volume of the step or of options.volumes", v.Name, v.Path)
			}
		}
		others = append(others, v)
	}
}

// secrets checks that each secret variable is defined once, used, and not set in the open as well.
func (c *checker) secrets() {
	b := c.build
	defined := map[string]string{} // variable -> where
	define := func(variable, at string) {
		if _, twice := defined[variable]; twice {
			c.fault(at, "secretEnv %q is defined more than once", variable)
		}
		defined[variable] = at
	}
	for i, s := range b.Secrets {
		for _, variable := range slices.Sorted(maps.Keys(s.SecretEnv)) {
			at := fmt.Sprintf(".secrets[%d].secretEnv.%s", i, variable)
			define(variable, at)
			if len(s.SecretEnv[variable]) > maxSecret {
				c.fault(at, "a secret value is at most %d bytes long", maxSecret)
			}
		}
	}
	for i, s := range b.AvailableSecrets.SecretManager {
		define(s.Env, fmt.Sprintf(".availableSecrets.secretManager[%d].env", i))
	}
	for i, s := range b.AvailableSecrets.Inline {
		for _, variable := range slices.Sorted(maps.Keys(s.EnvMap)) {
			define(variable, fmt.Sprintf(".availableSecrets.inline[%d].envMap.%s", i, variable))
		}
	}

	used := map[string]bool{}
	use := func(variables []string, at string, others []string) {
		for j, variable := range variables {
			here := fmt.Sprintf("%s[%d]", at, j)
			used[variable] = true
			if _, ok := defined[variable]; !ok {
				c.fault(here, "secretEnv %q is used without being defined in availableSecrets or secrets%s",
					variable, didYouMean(variable, slices.Collect(maps.Keys(defined))))
			}
			if slices.Contains(variables[:j], variable) || slices.Contains(others, variable) {
				c.fault(here, "secretEnv %q stands twice", variable)
			}
		}
	}
	use(b.Options.SecretEnv, ".options.secretEnv", nil)
	for i, s := range b.Steps {
		at := fmt.Sprintf(".steps[%d].secretEnv", i)
		use(s.SecretEnv, at, b.Options.SecretEnv)
		for _, e := range slices.Concat(b.Options.Env, s.Env) {
			if k, _, _ := strings.Cut(e, "="); slices.Contains(b.SecretEnv(i), k) {
				c.fault(at, "%q is set by env and by secretEnv", k)
			}
		}
	}
	for _, variable := range slices.Sorted(maps.Keys(defined)) {
		if !used[variable] {
			c.fault(defined[variable], "secretEnv %q is defined without being used", variable)
		}
	}
}
