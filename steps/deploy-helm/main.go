// Program deploy-helm deploys the HelmReleases of the config repo that changed, and watches them until they are ready.
package main

import "github.com/deepdesk/cloudbuild-steps/internal/step"

func main() { step.Main(program) }
