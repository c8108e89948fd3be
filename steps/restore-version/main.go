// Program restore-version brings a version back that rollback-version took away: the same image, or nothing.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
