package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAllRollBacksAfterACancelShareOneReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithCancelCause(t.Context())
		after, done := settling(ctx)
		defer done()
		time.AfterFunc(time.Hour, func() { cancel(errors.New("stopped")) })
		<-ctx.Done()
		if after.Err() != nil {
			t.Error("a roll back has no time at all")
		}
		<-after.Done()
		if took := time.Since(began); took != time.Hour+30*time.Second {
			t.Errorf("over after %s", took)
		}
		if text := context.Cause(after).Error(); text != "stopped, and the 30s to leave things in order are over" {
			t.Error(text)
		}
	})
}

func TestARunThatEndsLeavesNoTimerBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it fails when something of it is still blocked
		ctx, cancel := context.WithCancel(t.Context())
		after, done := settling(ctx)
		cancel()
		synctest.Wait()
		done()
		if !errors.Is(context.Cause(after), context.Canceled) {
			t.Error(context.Cause(after))
		}
	})
}
