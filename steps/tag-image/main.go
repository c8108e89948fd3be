// Program tag-image puts tags on an image that never had another one under them.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
