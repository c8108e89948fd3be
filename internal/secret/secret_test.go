package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const canary = "canary-8d0e"

func TestNoVerbPrintsASecret(t *testing.T) {
	s := New(canary)
	holder := struct {
		Token Text
		More  []Text
		Named map[string]Text
	}{s, []Text{s}, map[string]Text{"a": s}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "%t", "%c", "%U", "%10.3s", "%+q"} {
		for _, value := range []any{s, &s, holder, &holder, []any{s}} {
			got := fmt.Sprintf(verb, value)
			if strings.Contains(got, canary) || strings.Contains(got, fmt.Sprintf("%x", canary)) {
				t.Errorf("%s prints %q", verb, got)
			}
		}
	}
}

func TestNoEncoderWritesASecret(t *testing.T) {
	s := New(canary)
	for _, v := range []any{s, &s, map[string]Text{"token": s}, struct{ Token Text }{s}} {
		if b, err := json.Marshal(v); err == nil {
			t.Errorf("%T was encoded as %s", v, b)
		}
	}
	var out bytes.Buffer
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))} {
		log.Info("x", "token", s, "pointer", &s, "struct", struct{ Token Text }{s})
	}
	if strings.Contains(out.String(), canary) {
		t.Errorf("a log holds the secret: %s", out.String())
	}
}

func TestWhiteSpaceAroundASecretIsNotPartOfIt(t *testing.T) {
	var s Text
	if err := s.UnmarshalText([]byte("  " + canary + "\r\n")); err != nil || s.Reveal() != canary || s.IsZero() {
		t.Errorf("got %q (%v)", s.Reveal(), err)
	}
	if e := New(" \n"); !e.IsZero() || e.Reveal() != "" {
		t.Errorf("white space alone is a secret %q", e.Reveal())
	}
}
