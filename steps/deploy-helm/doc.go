package main

// doc is the text of -help and the README.
const doc = `The step reads the newest commit of the config repo in memory and finds its HelmReleases (` + "`helm.toolkit.fluxcd.io/v2`" + `). Each is compared with
what the cluster remembers of it: a digest of chart, values and target, kept as a label of Helm's own release record. What has not changed
is left alone, without rendering anything. The rest is packaged from its chart, installed or upgraded with the Helm SDK, and
watched until it is ready; a pod that cannot become ready is named at once, with container, reason, message and the last lines of its log.

**Order.** Staging (HelmReleases without an account) and UAT accounts come first, production accounts when all of those are healthy. Within a wave
CONCURRENCY releases are deployed side by side. A wave in which one fails is finished; later waves do not begin. A release begins when what its ` + "`dependsOn`" + `
names is ready, and is skipped when that failed; a dependency that this run does not deploy (SELECT, WAVES, suspended, held by the gate) must be healthy in the
cluster: its newest revision deployed. Circles, missing dependencies and ones of a later wave are faults of the release.

**The cluster.** GKE_CLUSTER is found through the container API, with the credentials of the build's service account; neither gcloud nor a kubeconfig is
needed. The service account needs ` + "`roles/container.developer`" + ` in the cluster's project (container.clusters.get to find the cluster, container.clusters.connect
for its DNS endpoint, and the objects in it). GKE_ENDPOINT=auto takes the DNS endpoint if it takes external traffic: it reaches private clusters
from Cloud Build's default pool, and its certificate is a public one. Else it takes the public address, else the private one, both with the cluster's
own certificate authority; a build in a private pool that shall not leave its network sets ` + "`private`" + `. A fleet member is reached through the connect
gateway, and its service account needs ` + "`roles/gkehub.gatewayEditor`" + `. Access tokens are renewed for as long as the deployment lasts.
With GKE_CLUSTERS one run spans several clusters: the ` + "`region`" + ` of an account in the inventory chooses its cluster, and an account whose region has none stops
the run before anything is touched. All clusters are read first, so one that cannot be reached stops the run as well. An account that moves to
another region is deployed there; what it leaves behind is an orphan.

**What is gone.** A release that was deployed from this config repo, branch and folder, and whose HelmRelease is gone, is reported as ` + "`orphaned`" + `, at the cost of no request;
that fails nothing. PRUNE=true uninstalls it (` + "`removed`" + `) when everything else is healthy: with its hooks, without keeping its history, waiting for its objects to go for up to
WAIT_TIMEOUT; ` + "`helm.sh/resource-policy: keep`" + ` is kept. A mark on the release record says what is whose: what helm, Flux, a local checkout or an earlier version of this
step wrote last is never touched. It stays, and the report says why, when SELECT or WAVES leave something out, when a HelmRelease has a fault, when a release of its account
is held back or the decision of this build does not allow the account, when the branch has moved on, and when its account has moved and its release does not run there. A suspended HelmRelease is
there. More than three at once, and more than PRUNE_LIMIT of all that was deployed from here, are refused (exit 3) before anything is touched. DRY_RUN lists what would go.

**The gate.** The service and version of a release are ` + "`values.image.repository`" + ` and ` + "`values.image.tag`" + `. The decision of
gate-uat on them, handed over in this build or else recorded under DECISIONS_PATH, bounds the deployment: an account that it does not allow
is skipped. It is found by its image, whatever SERVICE the gate was told; where none names the image, the decision on a service of the
repository's last path element counts, and of several all do. A tag without quotes that YAML reads as another number (0123, 1.10) fails its release. The step stops (exit 3) before anything is touched when
` + "`values.image.digest`" + ` is not the decision's digest, when the registry has the tag on another one or has it no more (VERIFY_TAG), when
a candidate is allowed to an account that the inventory does not mark ` + "`is_uat`" + `, or when the inventory in the config repo that a
decision was made on is gone. Without a decision, a pre-release or a build tag is not deployed to an account that the inventory does not
mark ` + "`is_uat`" + `. With REQUIRE_DECISION nothing is deployed to an account without one.

**Never older over newer.** The cluster's records are read before the config repo, so that the commit that is deployed cannot be older than what
runs. When the branch has moved on from REVISION, its newest commit is deployed, and the build of that commit finds its work done. A release
that another build changes meanwhile is left to it if the branch has moved on, and is planned again if not. Every record is written on the
condition that it has not changed since it was read.

**Autoscalers.** A number of replicas that somebody set through the ` + "`scale`" + ` subresource (a HorizontalPodAutoscaler, KEDA, ` + "`kubectl scale`" + `) is left
alone in upgrades and roll backs, whatever the chart says, where Helm and Flux reset it. To give it back to the chart, set the chart's number on the
object itself (` + "`kubectl patch`" + ` or ` + "`kubectl edit`" + `); the API server then forgets who scaled.

**Failures.** With ON_FAILURE=rollback a release that did not become ready returns to the revision that ran before. A first revision has nothing to return
to and stays as it is; the next run upgrades it. A release that was left pending by a killed build is recovered: at once by the same build
(BUILD_ID), by others when its writer is dead. A build that is cancelled (SIGTERM, SIGINT), or whose TIMEOUT comes, begins nothing more; what is under way is rolled back side by
side, within 30 seconds for all after a cancel, or stays failed with ON_FAILURE=leave. A build at work writes its pending record again every 10 seconds; one whose record has not changed for 30
seconds, by the clock of who waits, is dead, and if it is not, what it writes later is refused. A living one is waited for, up to the time that the
release may take to become ready, and then decided on anew: the second of two builds that meet finds its work done, or deploys what is newer. What helm or
Flux left pending has no heartbeat, and counts as abandoned after TIMEOUT of this step.

**Ready.** Objects are waited for by kstatus' rules, as Flux and Helm do: workloads until their pods are ready, Jobs and hooks until they are complete, custom
resources until a condition ` + "`Ready`" + ` is True and ` + "`status.observedGeneration`" + ` is the newest; one without conditions is ready when it exists. A custom resource whose status
kstatus cannot read does not hang until the timeout: it is ready when its controller has seen this generation and no condition Stalled, Reconciling or Ready
says otherwise. ` + "`healthCheckExprs`" + ` are not supported and reported by name. Named at once: an image that cannot be pulled, a crash, a failed hook or Job, a
failed init container, a progress deadline that has passed; after UNSCHEDULABLE_AFTER a pod that no node takes or that a quota refuses. For a Job its own
` + "`backoffLimit`" + ` says how many crashes are one too many. The last LOG_LINES lines (at most 4 KB) of the container to blame, after a crash of the
run before, are in the log and in the report. **They are the application's words and may hold its secrets**; LOG_LINES=0 leaves them out. Reading them needs
` + "`get`" + ` on pods/log; without it they are missing, with a warning.

**Dry run.** With DRY_RUN=true every release that would be deployed is rendered as it would be (it takes the same way up to the moment in which its record would be
written), and every object is sent to the API server as a server-side apply with ` + "`dryRun=All`" + `: its validation and all admission webhooks decide. What they
refuse is named by release, object and field, and fails the run (exit 1). Not everything can be asked: objects in a namespace that the deployment
creates first, custom resources whose definition the same chart brings, and what a webhook without dry runs would see; these are named and do not
fail the run. What a chart looks up, what hooks do, and what a release before it in the same run creates are not there yet, either. A unified diff between
what is live and what would be is in the log, in ` + "`deploy-helm.diff`" + ` and in the report, by waves, with the accounts that are touched; bounded, with a notice.
Values of Secrets are masked (` + "`***`, `*** (changed)`" + `). **Only Secrets are**: a password that a chart writes into a ConfigMap or an environment variable is
shown, unless it came out of a Secret by valuesFrom. The build's service account needs the permissions of a deployment (patch), although nothing is written.

**Drift.** An unchanged release is left alone without a look at its objects. DRIFT=declared looks at those whose HelmRelease has ` + "`driftDetection.mode`" + ` enabled or
warn, DRIFT=all at all that do not say disabled: the manifest of the last revision is applied as a trial (` + "`dryRun=All`" + `), so that neither what the server fills in
nor the fields of others count; ` + "`driftDetection.ignore`" + ` (paths, target) and the annotation ` + "`helm.toolkit.fluxcd.io/driftDetection: disabled`" + ` are
followed as in Flux. What differs is in the log, the hand-over and the report, and fails nothing. CORRECT_DRIFT=true applies it again, without a new revision, and waits for it, in
the order of the waves; not where the mode is warn, and not on an account that the gate's decision does not allow now.

**The report.** Progress and a table are in the log, and ` + "`deploy-helm.json`" + ` and ` + "`report.html`" + ` in the hand-over directory: account and service, version, state, time
and reason, in one file without scripts. Both are written when releases failed, too; the page even when nothing could be begun.

**Values.** As in Flux, ` + "`valuesFrom`" + ` (ConfigMaps and Secrets in the namespace of the HelmRelease, ` + "`valuesKey`, `targetPath`, `literal`, `optional`" + `) come before
` + "`values`" + `. They are read from the cluster, each once in a run; a manifest in the config repo counts when it has been applied. They are part of the digest, so that
a changed Secret deploys what uses it. What a Secret holds is not printed: where Helm or the server quote it in an error, it is concealed. values.image
must not come from a Secret, since the gate judges it by name.

**Charts.** A chart is a folder of this repo (` + "`GitRepository`" + ` source), or comes from a ` + "`HelmRepository`" + ` (HTTP, or ` + "`type: oci`" + `), or from an
` + "`OCIRepository`" + ` that spec.chartRef names; a ` + "`HelmChart`" + ` that it names says which of them. These objects (` + "`source.toolkit.fluxcd.io`" + ` v1, v1beta2) are
read from the config repo, and versions and ranges are chosen as Flux chooses them. Secrets that they name (user name and password, .dockerconfigjson,
bearerToken, certificates) are read in their namespace from the cluster that is deployed to; a registry without one gets the credentials of the build, as for images. Each
run asks for the index of a Helm repository once (at most 64 MiB), or for the manifest behind a tag, because both can change; the archive (at most 32 MiB) is
downloaded only where something is to be deployed, once, and compared with the digest in the index or manifest. A chart must bring its dependencies
along in charts/. Plain HTTP is for loopback and for what REGISTRY_INSECURE lists, whatever ` + "`insecure`" + ` says. Nothing unverified is deployed: a source or chart with ` + "`verify`" + `
is refused, and so is any other field of a source that is not supported, by its name.

**Kustomizations.** Where a ` + "`kustomization.yaml`" + ` only lists resources, the files themselves are read. Where one does more (patches, namespace, namePrefix, labels, components, replacements,
generators ...), or lists what lies outside of CONFIG_PATH, the HelmReleases and the sources of their charts come out of its build by kustomize's library, and the files that it is made of are no
releases of their own: one base makes as many releases as overlays build it. Built are the folders that Flux's ` + "`Kustomization`" + ` objects below CONFIG_PATH name, if their ` + "`sourceRef`" + ` can be
this repo (with targetNamespace, namePrefix, nameSuffix, patches, images, components, commonMetadata and suspend; ` + "`postBuild`" + ` fails the releases that have variables), and the kustomizations below
CONFIG_PATH that nothing refers to. **Nothing is fetched or run**: a build sees a copy of files of the repo. URLs, paths out of the repo, links, helmCharts, helmChartInflationGenerator, generators,
transformers, validators and openapi are refused by name. A build that fails is a fault of what it is made from. Since the account of such a release is not known, SELECT leaves none of
them out, they count as staging, and so later waves do not begin. A kustomization below CONFIG_PATH that is no YAML, or one too large to be walked, stops everything. The gate judges the values
that are built. A build loses comments, so a tag counts as marked when any file of the build holds it, or a part of it, on a line with a marker.

**Fields.** Supported are chart and chartRef (see above; with valuesFiles and ignoreMissingValuesFiles), values, valuesFrom, dependsOn, releaseName, targetNamespace, storageNamespace, timeout,
maxHistory, suspend, serviceAccountName, driftDetection, postRenderers, postRenderStrategy, commonMetadata, test, and of install, upgrade, rollback and uninstall: timeout, crds, skipCRDs,
createNamespace, disableWait, disableWaitForJobs, disableHooks, disableSchemaValidation, disableTakeOwnership, force, preserveValues, cleanupOnFail, serverSideApply (on unless it
is switched off; ` + "`auto`" + ` follows the revision before), keepHistory and deletionPropagation. With ` + "`reconcileStrategy: Revision`" + ` the chart's version gets the commit as build metadata, as Flux does.
The definitions in a chart's crds/ are applied before the release and waited for: at an install those that do not exist, at an upgrade none, unless ` + "`crds`" + ` says otherwise.
Post-renderers must not change the version of values.image, which the gate has judged.

What follows a failure is ON_FAILURE's business first. With ` + "`rollback`" + `, ` + "`install.remediation.remediateLastFailure`" + ` uninstalls a first install that failed,
` + "`upgrade.remediation.strategy: uninstall`" + ` uninstalls and installs anew, the strategy RetryOnFailure leaves what failed, and a release whose tests fail has failed unless that is to
be ignored. Without effect by design are interval, persistentClient, remediation retries and retryInterval (a build tries once, the next one again), remediateLastFailure of an upgrade,
install.replace (an uninstalled release's name is free), disableOpenAPIValidation (the server validates), rollback.recreate and what Flux itself ignores.
Any other field that is set fails its release by name.
As with Flux, objects that exist already are adopted and conflicts with other field managers are forced; an object that belongs to another Helm release is
refused, which Flux would take. Releases change hands between this step, Flux and Helm's command line: docs/flux.md says how.

` + "```yaml" + `
- id: deploy
  name: $_STEPS/deploy-helm
  env: [CONFIG_REPO=$_CONFIG_REPO, REVISION=$COMMIT_SHA, GKE_CLUSTER=$_GKE_CLUSTER]
  secretEnv: [GIT_TOKEN]
` + "```"
