package main

const doc = `A pre-release (` + "`v2.0.0-rc.1`" + `) is for the accounts that the inventory marks ` + "`is_uat: true`" + `; a final version is for all. The answer
is frozen: version, digest, hash of the inventory, and each account with the reason. bump-config and deploy-helm act on nothing else.

` + "```yaml" + `
- id: gate
  name: $_STEPS/gate-uat
  env: [IMAGE=$_IMAGE, CONFIG_REPO=$_CONFIG_REPO]
  secretEnv: [GIT_TOKEN]
` + "```" + `

**The inventory** is YAML or JSON:

` + "```yaml" + `
accounts:
- {id: orchid, is_uat: true, region: europe-west1}
- {id: maple, region: europe-west1, services: [backend]}
` + "```" + `

` + "`id`" + ` is 1 to 63 letters, digits, ` + "`-`, `_`, `.`" + ` and unique whatever the case; ` + "`is_uat`" + ` is a boolean, and missing or null means: not UAT;
` + "`region`" + ` and ` + "`services`" + ` may be left out. Other members may stand beside. The file is refused whole for any defect, with account, line and
member: a name that only looks like one of these, a member twice, a second document, anchors, tags. It has at most 32 MiB and
900,000 values, in which 100,000 accounts fit.

**From a service.** ACCOUNTS may be an https URL. The token goes to that scheme, host and port only; redirects elsewhere are refused, and so are
link-local addresses and metadata servers, whatever a name resolves to. No proxy is used. The answer must be 200, whole (a Content-Length, or
chunks with their end), JSON or YAML. Further pages are asked for when there is a Link header with ` + "`rel=\"next\"`" + ` on the same origin, or a
member ` + "`next_page_token`" + ` (asked for with ` + "`?page_token=`" + `) or ` + "`nextPageToken`" + ` (` + "`?pageToken=`" + `). Other signs of more pages, and a
` + "`total`" + ` that is not the number of accounts, refuse the inventory.

**Freeze windows** stand in the inventory beside ` + "`accounts`" + `, or in the file FREEZES:

` + "```yaml" + `
freezes:
- from: 2026-12-20T00:00:00+01:00
  to: 2027-01-04T06:00:00+01:00
  reason: end of the year
  regions: [europe-west1]      # all when left out
  services: [backend]          # all when left out
  override: [ada@example.com]  # nobody when left out
` + "```" + `

An account in a frozen region is held; where that leaves nobody, the step refuses and says when the freeze ends. OVERRIDE_FREEZE with the reason
and OVERRIDE_BY with one of the names deliver all the same, and the decision records both. Cloud Build knows no person behind a build: who may
set these variables is a matter of who may run the trigger.

**Holds.** With CONFIG_REPO, a version that ` + "`holds.yaml`" + ` holds back (rollback-version and people put it there) is refused: nobody may receive it. So is its
image under another tag, where the hold names the digest. The refusal says who holds it, since when, and why; other held versions of the
service are named in the log.

**REQUIRE_CANDIDATE** refuses a final version unless the config repo has a decision on a candidate of it (` + "`decisions/<service>/v2.0.0-rc.1.json`" + `)
that allows at least one account and is about the same image and digest. bump-config commits a decision together with the edits that deliver the
version, so a recorded decision means that the candidate was written into the entries of UAT accounts.

**The seal.** With DECISION_KEY the decision carries an HMAC of all its members, and bump-config and deploy-helm, which are given the same key, accept
no other decision. It finds changes that no inventory shows: a region, a freeze, an account of an inventory that a service gave.

**Against the config repo.** With CONFIG_REPO, the log and the decision's ` + "`findings`" + ` name accounts that run the service and have no marker of its image,
resources with such a marker whose account the inventory does not know, UAT accounts whose marker names a policy that admits no candidates, and
other accounts whose policy admits them. Findings forbid nothing.

**DRY_RUN** prints what would change since the recorded decision on the newest version of the service.`
