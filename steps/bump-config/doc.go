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
is held. Without a decision, a pre-release, whichever mode it comes from, never reaches an account that the inventory does not mark ` + "`is_uat: true`" + `. With
REQUIRE_DECISION, no release is written without one, in any mode.

**A decision is not taken on trust.** It must be of this build, version and image. The registry is asked whether the tag still has the digest that
was decided on (VERIFY_TAG). The inventory that it was made on, when that is a file of the config repo, must still have the same bytes, and is
read again: no account may be missing, none may be there that should be held. A candidate must not be allowed to an account that the config
repo's inventory, if there is one, does not mark as UAT. Any difference stops the step (exit code 3) before anything is written.

**Never backwards.** An older tag is not written over a newer one, by the policy's own order, unless ALLOW_DOWNGRADE is set or what is there is
held. A build that a newer one has overtaken ends with "superseded" and exit code 0; an older release is refused (exit code 3).

**Holds.** ` + "`holds.yaml`" + ` in the config repo (HOLDS) lists versions that must not be delivered, with who, when and why. A held version, and an image with
a held digest under whatever tag, is never written: asked for it, the step refuses (exit code 3), ALLOW_DOWNGRADE or not. That makes a roll
back last: automation that runs again does not undo it. A defective file stops every write. With PUSH_BRANCH the holds of both branches count.

` + "```yaml" + `
holds:
- service: backend
  version: v1.1.0
  digest: sha256:4f2a…     # optional
  reason: "charges twice"
  who: ada@example.com
  when: 2026-11-24T09:30:00Z
` + "```" + `

**Every marker is accounted for.** The hand-over lists each marker of the image's policies as changed, already (there), held (by the gate), skipped
(it cannot be edited: an alias, a block of text, a SOPS file, a file that does not parse, a policy that does not exist, something newer) or
not-selected, with the reason; so are files that were not read (larger than 4 MiB, links, submodules). With ON_UNMATCHED=refuse, what cannot be
edited stops the run before anything is written. A digest is never blanked: where a marker asks for one and none is known, nothing is written at
all. DRY_RUN=true prints the change as a unified diff.

**Signing.** SIGNING_KEY signs the commit with SSH (` + "`ssh-keygen -t ed25519 -N ''`" + `; git verifies it with gpg.format=ssh) or OpenPGP. A key with a
passphrase is refused. COMMIT_EMAIL must be the key's identity where the host shows commits as verified.

` + "```yaml" + `
- id: bump
  name: $_STEPS/bump-config
  env: [IMAGE=$_IMAGE, CONFIG_REPO=$_CONFIG_REPO]
  secretEnv: [GIT_TOKEN]
` + "```"
