package main

const doc = "A line of the config repo asks to be kept up to date with a marker, as for Flux:\n" + `
` + "```yaml" + `
tag: v1.0.0 # {"$imagepolicy": "flux-system:backend-production:tag"}
` + "```" + `

The step looks for the ImagePolicies whose ImageRepository is IMAGE and whose filter and range admit the tag (VERSION on a release, else the
build tag), and writes the tag, the image and its digest into the markers of those policies: one commit, pushed on the condition that the
branch has not moved, tried again when it has. Only the marked values change, byte for byte. Where the tag stands already there is no commit.

**Other sources.** With MODE=scan no build is needed: every ImagePolicy of the repo chooses from the tags that its image has in the registry
(all pages of them; Artifact Registry through its own API), and all that changes is one commit. With MODE=resolved the file RESOLVED says what
Flux's controllers chose in a cluster. IMAGE and POLICIES limit both. A chosen tag is resolved before it is written. A list of tags that lacks
the tag in use, where what is chosen is not newer, is refused (exit code 3) and not taken for a reason to go back; a list that cannot be read
ends the run (exit code 1). Where this differs from Flux is in docs/flux.md.

**The gate.** When gate-uat ran in this build, only resources of accounts that it allows change; its decision is committed with the edits. The
account of a resource is its label or annotation ACCOUNT_LABEL, or stands in its path (ACCOUNT_PATH); a resource whose account cannot be told
is held. Without a decision, a pre-release, whichever mode it comes from, never reaches an account that the inventory does not mark ` + "`is_uat: true`" + `.

**Never backwards.** An older tag is not written over a newer one, by the policy's own order, unless ALLOW_DOWNGRADE is set. A build that a
newer one has overtaken ends with "superseded" and exit code 0; an older release is refused (exit code 3).

**Markers that cannot be edited** (an alias, a block of text, a file that does not parse) are reported and, with ON_UNMATCHED=refuse, stop the run
before anything is written. A digest is never blanked: where a marker asks for one and none is known, nothing is written at all.

` + "```yaml" + `
- id: bump
  name: $_STEPS/bump-config
  env: [IMAGE=$_IMAGE, CONFIG_REPO=$_CONFIG_REPO]
  secretEnv: [GIT_TOKEN]
` + "```"
