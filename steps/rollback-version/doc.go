package main

const doc = `**Stage ` + "`return`" + `** finds the image behind VERSION and everything that names it (other tags, indexes, values in the config repo), copies it with all
that belongs to it (children, attestations, signatures, referrers, tags) to BACKUP and reads every byte of the copy again, and then makes
one commit in the config repo: the hold, and every resource that has the image goes back to the newest older version that its policy
admits. The push deploys it; automation that runs again finds the hold and leaves it so. An account is never returned to a version that is
held, or that the gate kept from it. DRY_RUN prints the plan.

**Stage ` + "`delete`" + `** runs when the deployment has succeeded. It refuses while the config repo names the image, without a hold, and without a proven
backup. It writes a tombstone, so that the tag is never put on another image, takes the tag off, and deletes the image when no other tag
is on it: first the tags, then the index, its children and what is attached. A release usually shares its image with the build tag it was
promoted from; then only the release's tag goes, unless FORCE_DIGEST is set. What another image uses stays.

Each stage can be run alone, again, and after a crash: it finds what is done and goes on.

**Immutable repositories.** Where Artifact Registry's tags are immutable nothing can be deleted, and nothing has to be: stage ` + "`delete`" + ` says so
and ends with exit code 0. The hold keeps the version back.

**With Flux.** Flux does not read holds: its image policies follow the tags of the registry. What to delete and what to suspend, so that it goes back
and stays there, is in docs/flux.md.

` + "```yaml" + `
- id: return
  name: $_STEPS/rollback-version
  env: [IMAGE=$_IMAGE, VERSION=$_VERSION, CONFIG_REPO=$_CONFIG_REPO, BACKUP=$_BACKUP, REASON=$_REASON]
  secretEnv: [GIT_TOKEN]
` + "```"
