// Program gate-uat decides which accounts may receive a version.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
