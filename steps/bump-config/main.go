// Program bump-config writes a version into the config repo.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
