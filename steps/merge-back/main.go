// Program merge-back finds out whether a hotfix is in the main branch, and opens the pull request that brings it there.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
