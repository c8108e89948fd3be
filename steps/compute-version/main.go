// Program compute-version finds the next version, the build tag and the release notes in a repository's history.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
