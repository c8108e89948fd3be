package step

import (
	"errors"
	"fmt"
)

// outcome is an error that knows its exit code and, mostly, what the reader can do.
type outcome struct {
	code int
	fix  string
	err  error
}

func (o *outcome) Error() string { return o.err.Error() }
func (o *outcome) Unwrap() error { return o.err }

// Nothing ends a run that found nothing to do: exit code 0, status "nothing", the result is handed over.
func Nothing(format string, args ...any) error {
	return &outcome{code: ExitDone, err: fmt.Errorf(format, args...)}
}

// Refuse ends a run that must not go on: exit code 3, status "refused". The result is handed over, since Cloud Build has no conditional
// steps and "no" travels as data.
func Refuse(fix, format string, args ...any) error {
	return &outcome{code: ExitRefused, fix: fix, err: fmt.Errorf(format, args...)}
}

// Misconfigured ends a run whose settings are each well formed but cannot be acted on: exit code 2.
func Misconfigured(fix, format string, args ...any) error {
	return &outcome{code: ExitConfig, fix: fix, err: fmt.Errorf(format, args...)}
}

// Lost ends a run that lost a race after retries: exit code 4.
func Lost(fix, format string, args ...any) error {
	return &outcome{code: ExitLostRace, fix: fix, err: fmt.Errorf(format, args...)}
}

// WithFix adds what the reader can do to the failure of an outside system: exit code 1.
func WithFix(err error, fix string) error {
	return &outcome{code: ExitFailed, fix: fix, err: err}
}

// WithReport marks a failure, whatever its exit code, as one that came after some of the work was done: the result, which says what was done
// and what was not, is handed over with the status "failed", and printed.
func WithReport(err error) error { return &reported{err} }

type reported struct{ err error }

func (r *reported) Error() string { return r.err.Error() }
func (r *reported) Unwrap() error { return r.err }

// status is what the hand-over says of a run; empty when there is nothing to hand over.
func status(err error) Status {
	_, report := errors.AsType[*reported](err)
	switch code := exitCode(err); {
	case err == nil:
		return Done
	case code == ExitDone:
		return Empty
	case code == ExitRefused:
		return Refused
	case report:
		return Failed
	}
	return ""
}

// CodeOf returns the code that a program ends with when its Run returns err, for tests that call Run themselves.
func CodeOf(err error) int { return exitCode(err) }

func exitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	if _, ok := errors.AsType[*Faults](err); ok {
		return ExitConfig
	}
	if o, ok := errors.AsType[*outcome](err); ok {
		return o.code
	}
	return ExitFailed
}

// advised is an error of another package that knows what the reader can do, such as which permission to ask for.
type advised interface {
	error
	Fix() string
}

func fixOf(err error) string {
	if o, ok := errors.AsType[*outcome](err); ok && o.fix != "" {
		return o.fix
	}
	if a, ok := errors.AsType[advised](err); ok {
		return a.Fix()
	}
	return ""
}

func nothingReason(err error) string {
	if err != nil && exitCode(err) == ExitDone {
		return err.Error()
	}
	return ""
}
