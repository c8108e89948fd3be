// Program rollback-version takes a bad version back: it backs the image up, holds the version, returns every account to the version before,
// and deletes it from the registry.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
