package main

import (
	"errors"
	"log/slog"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// tellLog puts the last lines of the container that is to blame for a failure into the log, and returns them for the report. They come from
// the application, which may print secrets; LOG_LINES=0 leaves them out, and what the release's values have from Secrets is concealed.
func tellLog(log *slog.Logger, err error, secrets concealed) []string {
	f, ok := errors.AsType[*cluster.Failure](err)
	var lines []string
	switch {
	case !ok:
		return nil
	case f.Why != "":
		log.Warn("no log of "+f.Of, "reason", f.Why)
	case len(f.Log) == 0:
		log.Info(f.Of + " has written nothing")
	default:
		log.Info("the last lines of " + f.Of + ":")
		for _, line := range f.Log {
			lines = append(lines, secrets.text(line))
			log.Info("| " + secrets.text(line))
		}
	}
	return lines
}
