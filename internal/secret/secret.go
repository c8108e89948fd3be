// Package secret holds the one type that carries a credential through the suite.
//
// Redaction by search and replace misses a secret that is split over two writes, so the suite never redacts: a credential lives in a
// [Text] from the moment the environment is read, no verb of fmt, slog or encoding/json can print it, and only [Text.Reveal] gives it
// back, at the place where it enters a request.
package secret

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const hidden = "[hidden]"

// Text is a credential: a token, a password, a private key. Its zero value means that none was given.
type Text struct {
	// A func cannot be printed, compared or encoded by reflection, so that even %#v of an enclosing struct shows an address only.
	value func() string
}

// New makes a Text of s. White space around it is dropped: secret files end in a newline, and a newline inside an HTTP header or a URL
// makes the libraries print the whole value in their error.
func New(s string) Text {
	s = strings.TrimSpace(s)
	if s == "" {
		return Text{}
	}
	return Text{value: func() string { return s }}
}

// Reveal returns the credential itself. Call it only where the value is put into a request.
func (t Text) Reveal() string {
	if t.value == nil {
		return ""
	}
	return t.value()
}

// IsZero reports whether no credential was given.
func (t Text) IsZero() bool { return t.value == nil }

// UnmarshalText reads a credential, as [New] does. It implements encoding.TextUnmarshaler.
func (t *Text) UnmarshalText(b []byte) error {
	*t = New(string(b))
	return nil
}

// Format implements fmt.Formatter for every verb and flag.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// String implements fmt.Stringer.
func (t Text) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (t Text) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (t Text) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText refuses: a credential that is encoded is a credential in a file. It implements encoding.TextMarshaler.
func (t Text) MarshalText() ([]byte, error) { return nil, errors.New("a secret cannot be encoded") }

// MarshalJSON refuses, as [Text.MarshalText] does.
func (t Text) MarshalJSON() ([]byte, error) { return nil, errors.New("a secret cannot be encoded") }

var (
	_ fmt.Formatter  = Text{}
	_ slog.LogValuer = Text{}
	_ json.Marshaler = Text{}
)
