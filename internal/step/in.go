package step

import (
	"context"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// Faults collects what is wrong with the configuration, so that one run reports all of it. It is an error with exit code 2.
type Faults struct {
	list      []fault
	malformed map[string]bool // variables that could not be read at all
}

type fault struct{ name, text string }

// Add records that the variable name is wrong. The text continues the sentence that the name begins and must never repeat a secret. What
// is said about a variable that could not be read in the first place would only follow from that, and is dropped.
func (f *Faults) Add(name, format string, args ...any) {
	if f.malformed[name] {
		return
	}
	f.list = append(f.list, fault{name, fmt.Sprintf(format, args...)})
}

// Reject adds the fault that err is, if it is one. The format holds a %v for it.
func (f *Faults) Reject(name, format string, err error) {
	if err != nil {
		f.Add(name, format, err)
	}
}

func (f *Faults) cannotRead(name string) {
	if f.malformed == nil {
		f.malformed = map[string]bool{}
	}
	f.malformed[name] = true
}

func (f *Faults) has(name string) bool {
	return slices.ContainsFunc(f.list, func(x fault) bool { return x.name == name })
}

// Lines returns one sentence for each fault, each beginning with the variable's name.
func (f *Faults) Lines() []string {
	lines := make([]string, len(f.list))
	for i, x := range f.list {
		lines[i] = x.name + " " + x.text
	}
	return lines
}

// Error joins the lines.
func (f *Faults) Error() string { return strings.Join(f.Lines(), "; ") }

// variable is one environment variable of an In struct, read from its tags.
type variable struct {
	name     string
	doc      string
	def      string
	from     []string
	choices  []string
	required bool
	field    reflect.StructField
	index    []int
}

// kind is the word for the variable's type: the field's tag type, else what its Go type is called.
func (v variable) kind() string {
	if word := v.field.Tag.Get("type"); word != "" {
		return word
	}
	return typeName(v.field.Type)
}

func (v variable) secret() bool { return v.field.Type == reflect.TypeFor[secret.Text]() }

// variables lists the variables of a struct type in the order of its fields, those of embedded groups in place. A group's require tag
// names the variables of it that this step cannot do without.
func variables(t reflect.Type) []variable {
	var list []variable
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			required := splitList(f.Tag.Get("require"))
			for _, v := range variables(f.Type) {
				v.index = append([]int{i}, v.index...)
				v.required = v.required || slices.Contains(required, v.name)
				list = append(list, v)
			}
			continue
		}
		name := f.Tag.Get("env")
		if name == "" {
			continue
		}
		list = append(list, variable{
			name: name, doc: f.Tag.Get("doc"), def: f.Tag.Get("default"), required: f.Tag.Get("required") == "true",
			from: strings.Fields(f.Tag.Get("from")), choices: splitList(f.Tag.Get("oneof")), field: f, index: []int{i},
		})
	}
	return list
}

func splitList(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// decoder fills In structs field by field: go-envconfig alone stops at the first fault, names Go fields, and takes the empty string,
// which is how Cloud Build says "missing", for a value.
type decoder struct {
	lookup   func(name string) (string, bool)
	handover func(step, field string) (string, error)
	faults   *Faults
}

func (d decoder) decode(target reflect.Value, defaults map[string]string) {
	for _, v := range variables(target.Type()) {
		if def, ok := defaults[v.name]; ok {
			v.def = def
		}
		raw, err := d.find(v)
		switch {
		case err != nil:
			d.faults.Add(v.name, "cannot be taken from an earlier step: %v", err)
		case raw == "" && v.required:
			d.faults.Add(v.name, "is not set: %s", v.doc)
		case raw != "":
			if err := setField(target.FieldByIndex(v.index), raw); err != nil {
				d.faults.Add(v.name, "%s", complaint(v, raw, err))
				d.faults.cannotRead(v.name)
			} else if len(v.choices) > 0 && !slices.Contains(v.choices, raw) {
				d.faults.Add(v.name, "%q is not one of %s", raw, strings.Join(v.choices, ", "))
			}
		}
	}
	for i := range target.NumField() { // groups may have rules across their own variables
		if c, ok := target.Field(i).Interface().(interface{ checkGroup(*Faults) }); ok && target.Type().Field(i).Anonymous {
			c.checkGroup(d.faults)
		}
	}
}

// find returns the variable's text: its own name, the name with an underscore (what automapSubstitutions makes of a user's
// substitution), then the fallbacks, then the default. Empty text is unset everywhere.
func (d decoder) find(v variable) (string, error) {
	if s := d.env(v.name); s != "" {
		return s, nil
	}
	for _, source := range v.from {
		step, field, isHandover := strings.Cut(source, ".")
		if !isHandover {
			if s := d.env(source); s != "" {
				return s, nil
			}
			continue
		}
		if d.handover == nil {
			continue
		}
		s, err := d.handover(step, field)
		if err != nil {
			return "", err
		}
		if s != "" {
			return s, nil
		}
	}
	return v.def, nil
}

func (d decoder) env(name string) string {
	if s, _ := d.lookup(name); s != "" {
		return s
	}
	s, _ := d.lookup("_" + name)
	return s
}

// setField decodes raw into one field. go-envconfig does the conversion, over a struct that holds this one field.
func setField(field reflect.Value, raw string) error {
	const name = "V"
	t := reflect.StructOf([]reflect.StructField{{Name: name, Type: field.Type(), Tag: `env:"V"`}})
	one := reflect.New(t)
	err := envconfig.ProcessWith(context.Background(), &envconfig.Config{
		Target: one.Interface(), Lookuper: envconfig.MapLookuper(map[string]string{name: raw}),
	})
	if err != nil {
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), name+": "))
	}
	value := one.Elem().Field(0)
	if list, ok := value.Interface().([]string); ok {
		value = reflect.ValueOf(splitList(strings.Join(list, ",")))
	}
	field.Set(value)
	return nil
}

// complaint says what a malformed value should look like. Types of our own explain themselves; Go's conversions do not.
func complaint(v variable, raw string, err error) string {
	if v.secret() {
		return "is malformed"
	}
	checked := reflect.New(v.field.Type).Interface()
	if _, ok := checked.(interface{ MayHoldSecret() }); ok {
		return fmt.Sprintf("is wrong: %v", err)
	}
	if _, ok := checked.(encoding.TextUnmarshaler); ok {
		return fmt.Sprintf("%q is wrong: %v", raw, err)
	}
	return fmt.Sprintf("%q is not %s", raw, wanted(v.field.Type))
}

func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 90s or 5m"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a " + typeName(t)
}

// typeName is the word for a variable's type in -help and -describe.
func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t == reflect.TypeFor[secret.Text]():
		return "secret"
	case t == reflect.TypeFor[[]string]():
		return "list"
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "integer"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		return "list"
	case t.Name() != "" && t.PkgPath() != "":
		return strings.ToLower(t.Name())
	}
	return "string"
}
