package step

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Contract is a step's description of itself, made from the structs that it decodes and hands over. -describe prints it as JSON.
type Contract struct {
	Name      string             `json:"name"`
	Summary   string             `json:"summary"`
	Doc       string             `json:"doc"`
	Variables []ContractVariable `json:"variables"`
	Outputs   []ContractOutput   `json:"outputs"`
	ExitCodes []ExitCode         `json:"exit_codes"`
}

// ContractVariable is one environment variable. Every one may also arrive as _NAME.
type ContractVariable struct {
	Name     string   `json:"name"`
	Doc      string   `json:"doc"`
	Type     string   `json:"type"` // string, bool, integer, number, duration (Go's), list (comma separated), secret, or a word for a checked text
	Default  string   `json:"default,omitempty"`
	Required bool     `json:"required"`
	Secret   bool     `json:"secret"`
	From     []string `json:"from,omitempty"`    // where the value comes from when the variable is unset: a variable, or step.field
	Choices  []string `json:"choices,omitempty"` // the only values allowed
	Frame    bool     `json:"frame,omitempty"`   // common to all steps
}

// ContractOutput is one field of the hand-over file.
type ContractOutput struct {
	Name string `json:"name"`          // member of <step>.json
	Env  string `json:"env,omitempty"` // key in <step>.env
	Doc  string `json:"doc"`
	Type string `json:"type"`
}

// ExitCode is one exit code and what it means.
type ExitCode struct {
	Code    int    `json:"code"`
	Meaning string `json:"meaning"`
}

var exitCodes = []ExitCode{
	{ExitDone, "done, or nothing to do"},
	{ExitFailed, "an outside system failed"},
	{ExitConfig, "the configuration is wrong"},
	{ExitRefused, "refused on purpose"},
	{ExitLostRace, "lost a race against another writer, after retries"},
}

// Contract describes the program.
func (p Program[In, Out]) Contract() Contract {
	c := Contract{Name: p.Name, Summary: p.Summary, Doc: strings.TrimSpace(p.Doc), ExitCodes: exitCodes}
	for _, v := range variables(reflect.TypeFor[In]()) {
		c.Variables = append(c.Variables, describe(v))
	}
	for _, v := range variables(reflect.TypeFor[settings]()) {
		if v.name == "TIMEOUT" {
			v.def = shortDuration(p.Timeout)
		}
		d := describe(v)
		d.Frame = true
		c.Variables = append(c.Variables, d)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Out]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		c.Outputs = append(c.Outputs, ContractOutput{Name: name, Env: f.Tag.Get("env"), Doc: f.Tag.Get("doc"), Type: typeName(f.Type)})
	}
	return c
}

func describe(v variable) ContractVariable {
	return ContractVariable{
		Name: v.name, Doc: v.doc, Type: v.kind(), Default: v.def, Required: v.required, Secret: v.secret(),
		From: v.from, Choices: v.choices,
	}
}

func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (c Contract) describe(format string) string {
	if format == "markdown" {
		return c.Markdown()
	}
	b, _ := json.MarshalIndent(c, "", "  ") // strings, bools and numbers only: cannot fail
	return string(b) + "\n"
}

// fallback words where a variable's value comes from when it is unset.
func (v ContractVariable) fallback() string {
	var parts []string
	for _, f := range v.From {
		if step, field, ok := strings.Cut(f, "."); ok {
			parts = append(parts, field+" of "+step)
		} else {
			parts = append(parts, f)
		}
	}
	if v.Default != "" {
		parts = append(parts, v.Default)
	}
	if len(parts) == 0 && v.Required {
		return "required"
	}
	text := strings.Join(parts, ", else ")
	if v.Required {
		text += " (required)"
	}
	return text
}

func (v ContractVariable) text() string {
	text := v.Doc
	if len(v.Choices) > 0 {
		text += ": " + strings.Join(v.Choices, " or ")
	}
	return text
}

// Help is the text of -help.
func (c Contract) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s.\n\n%s\n", c.Name, c.Summary, c.Doc)
	list := func(title string, frame bool) {
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, v := range c.Variables {
			if v.Frame != frame {
				continue
			}
			fmt.Fprintf(&b, "  %s (%s)\n      %s\n", v.Name, v.Type, v.text())
			if f := v.fallback(); f != "" {
				word := "default: "
				if f == "required" {
					word = ""
				}
				fmt.Fprintf(&b, "      %s%s\n", word, f)
			}
		}
	}
	list("Variables (each may also arrive as _NAME; empty is unset):", false)
	list("Variables of every step:", true)
	fmt.Fprintf(&b, "\nResult: one line on stdout, and for later steps %s.json and %s.env in the hand-over directory:\n", c.Name, c.Name)
	for _, o := range c.Outputs {
		name := o.Name
		if o.Env != "" {
			name += ", " + o.Env
		}
		fmt.Fprintf(&b, "  %s (%s)\n      %s\n", name, o.Type, o.Doc)
	}
	b.WriteString("\nExit codes:\n")
	for _, e := range c.ExitCodes {
		fmt.Fprintf(&b, "  %d  %s\n", e.Code, e.Meaning)
	}
	b.WriteString("\nFlags: -help, -describe (this as JSON; -describe=markdown: the README), -version.\n")
	return b.String()
}

// Markdown is the text of the step's README.
func (c Contract) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "<!-- Made by `make docs` from program.go in this folder. Do not edit. -->\n# %s\n\n%s.\n\n%s\n", c.Name, upperFirst(c.Summary), c.Doc)
	table := func(frame bool) {
		b.WriteString("\n| variable | meaning | when unset |\n|---|---|---|\n")
		for _, v := range c.Variables {
			if v.Frame == frame {
				fmt.Fprintf(&b, "| `%s` %s | %s | %s |\n", v.Name, v.Type, cell(v.text()), cell(v.fallback()))
			}
		}
	}
	b.WriteString("\n## Variables\n\nEach may also arrive as `_NAME`; an empty value counts as unset.\n")
	table(false)
	b.WriteString("\nVariables of every step:\n")
	table(true)
	fmt.Fprintf(&b, "\n## Result\n\nOne line on stdout; for later steps `%s.json` and `%s.env` in the hand-over directory.\n", c.Name, c.Name)
	b.WriteString("\n| member | in the .env file | meaning |\n|---|---|---|\n")
	for _, o := range c.Outputs {
		env := ""
		if o.Env != "" {
			env = "`" + o.Env + "`"
		}
		fmt.Fprintf(&b, "| `%s` %s | %s | %s |\n", o.Name, o.Type, env, cell(o.Doc))
	}
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range c.ExitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", e.Code, e.Meaning)
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
