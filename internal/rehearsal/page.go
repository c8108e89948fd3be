package rehearsal

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
)

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"seconds": func(s Scene) string { return fmt.Sprintf("%.1f s", s.Took.Seconds()) },
	"short":   shortDigest,
	"changed": func(r *Report, scene, row int) bool {
		return scene > 0 && r.Scenes[scene].Rows[row].Version != r.Scenes[scene-1].Rows[row].Version
	},
}).Parse(pageSource))

// HTML is the report as one page that needs no other file: which account runs which version, after which event, and how it got there.
func (r *Report) HTML() ([]byte, error) {
	var b bytes.Buffer
	if err := page.Execute(&b, r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Accounts are the rows of the first scene: who there is.
func (r *Report) Accounts() []Row {
	if len(r.Scenes) == 0 {
		return nil
	}
	return r.Scenes[0].Rows
}
