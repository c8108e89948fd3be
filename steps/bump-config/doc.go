package main

const doc = "A line of the config repo asks to be kept up to date with a marker, as for Flux:\n" + `
` + "```yaml" + `
tag: v1.0.0 # {"$imagepolicy": "flux-system:backend-production:tag"}
` + "```" + `

The step looks for the ImagePolicies whose ImageRepository is IMAGE and whose filter and range admit the tag (VERSION on a release, else the
build tag), and writes the tag, the image and its digest into the markers of those policies: one commit, pushed on the condition that the
branch has not moved, tried again when it has. Only the marked values change, byte for byte. Where the tag stands already there is no commit.

**The gate.** When gate-uat ran in this build, only resources of accounts that it allows change; its decision is committed with the edits. The
account of a resource is its label or annotation ACCOUNT_LABEL, or stands in its path (ACCOUNT_PATH); a resource whose account cannot be told
is held. Without a decision, a release candidate never reaches an account that the inventory does not mark ` + "`is_uat: true`" + `. With
REQUIRE_DECISION, no release is written without one.

**A decision is not taken on trust.** It must be of this build, version and image. The registry is asked whether the tag still has the digest that
was decided on (VERIFY_TAG). The inventory that it was made on, when that is a file of the config repo, must still have the same bytes, and is
read again: no account may be missing, none may be there that should be held. A candidate must not be allowed to an account that the config
repo's inventory, if there is one, does not mark as UAT. Any difference stops the step (exit code 3) before anything is written.

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
