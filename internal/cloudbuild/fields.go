package cloudbuild

// A kind says what the value of a field looks like in a file.
type kind int

const (
	text      kind = iota // a string
	object                // a message, named by field.of
	textMap               // a map of strings whose keys are the user's own
	boolean               // a YAML 1.1 boolean
	integer               // a number
	int64Text             // a number, or a number in quotes (JSON cannot hold 64 bits)
	enum                  // one of field.oneOf
	duration              // seconds with an "s" ("1200s", "1.5s"); Go's form ("20m") is accepted as the triggers' loader does
)

// A field is one member of a message of the Cloud Build API.
type field struct {
	kind   kind
	list   bool
	of     string   // object: the message's name
	oneOf  []string // enum: the values
	expand bool     // substitutions are replaced in it
	refuse string   // the service knows this field, but this package does not honour it: why
}

// messages is every field that a build file may hold.
//
// It was made from the discovery document of the Cloud Build API v1 in google.golang.org/api v0.311.0: all members of Build and of the
// messages below it that are neither output only nor refused by gcloud (source), sorted. The Go package cloudbuildpb and gcloud 528
// both lack fields that real files use (artifacts.oci, steps[].results), so neither of them can serve as the schema. To follow the API,
// add what a newer discovery document has.
//
// expand comes from elsewhere: Google's archived local builder replaces in name, args, env, dir, entrypoint, images, tags, logsBucket
// and artifacts.images and .objects; public files rely on it in options.env, options.pool.name, serviceAccount, versionName, kmsKeyName
// and the repositories of artifacts (the other strings of artifacts are marked by analogy). It is known not to happen in id, waitFor,
// script, timeout, volumes and secretEnv. rankedMachineSeries and sourceProvenanceHash are enums whose values are not checked here.
var messages = map[string]map[string]field{
	"Build": {
		"artifacts":        {kind: object, of: "Artifacts"},
		"availableSecrets": {kind: object, of: "Secrets"},
		"dependencies":     {kind: object, of: "Dependency", list: true},
		"gitConfig":        {kind: object, of: "GitConfig"},
		"images":           {kind: text, list: true, expand: true},
		"logsBucket":       {kind: text, expand: true},
		"options":          {kind: object, of: "BuildOptions"},
		"queueTtl":         {kind: duration},
		"secrets":          {kind: object, of: "Secret", list: true},
		"serviceAccount":   {kind: text, expand: true},
		"source":           {refuse: "a build file cannot name its source (gcloud refuses it)"},
		"steps":            {kind: object, of: "BuildStep", list: true},
		"substitutions":    {kind: textMap},
		"tags":             {kind: text, list: true, expand: true},
		"timeout":          {kind: duration},
	},
	"BuildStep": {
		"allowExitCodes":       {kind: integer, list: true},
		"allowFailure":         {kind: boolean},
		"args":                 {kind: text, list: true, expand: true},
		"automapSubstitutions": {kind: boolean},
		"dir":                  {kind: text, expand: true},
		"entrypoint":           {kind: text, expand: true},
		"env":                  {kind: text, list: true, expand: true},
		"id":                   {kind: text},
		"name":                 {kind: text, expand: true},
		"results":              {kind: object, of: "StepResult", list: true},
		"script":               {kind: text},
		"secretEnv":            {kind: text, list: true},
		"timeout":              {kind: duration},
		"volumes":              {kind: object, of: "Volume", list: true},
		"waitFor":              {kind: text, list: true},
	},
	"BuildOptions": {
		"automapSubstitutions": {kind: boolean},
		"defaultLogsBucketBehavior": {kind: enum, oneOf: []string{
			"DEFAULT_LOGS_BUCKET_BEHAVIOR_UNSPECIFIED", "REGIONAL_USER_OWNED_BUCKET", "LEGACY_BUCKET"}},
		"diskSizeGb":              {kind: int64Text},
		"dynamicSubstitutions":    {kind: boolean},
		"enableStructuredLogging": {kind: boolean},
		"env":                     {kind: text, list: true, expand: true},
		"logStreamingOption":      {kind: enum, oneOf: []string{"STREAM_DEFAULT", "STREAM_ON", "STREAM_OFF"}},
		"logging": {kind: enum, oneOf: []string{
			"LOGGING_UNSPECIFIED", "LEGACY", "GCS_ONLY", "STACKDRIVER_ONLY", "CLOUD_LOGGING_ONLY", "NONE"}},
		"machineType": {kind: enum, oneOf: []string{
			"UNSPECIFIED", "N1_HIGHCPU_8", "N1_HIGHCPU_32", "E2_HIGHCPU_8", "E2_HIGHCPU_32", "E2_MEDIUM", "E2_STANDARD_2"}},
		"pool":                  {kind: object, of: "PoolOption"},
		"pubsubTopic":           {kind: text},
		"rankedMachineSeries":   {kind: text, list: true},
		"requestedVerifyOption": {kind: enum, oneOf: []string{"NOT_VERIFIED", "VERIFIED", "BEST_EFFORT"}},
		"secretEnv":             {kind: text, list: true},
		"sourceProvenanceHash":  {kind: text, list: true},
		"substitutionOption":    {kind: enum, oneOf: []string{"MUST_MATCH", "ALLOW_LOOSE"}},
		"volumes":               {kind: object, of: "Volume", list: true},
		"workerPool":            {kind: text},
		"workerRelease":         {kind: text},
	},
	"PoolOption": {"name": {kind: text, expand: true}},
	"Volume":     {"name": {kind: text}, "path": {kind: text}},
	"StepResult": {"attestationContent": {kind: text}, "attestationType": {kind: text}, "name": {kind: text}},
	"Secret":     {"kmsKeyName": {kind: text, expand: true}, "secretEnv": {kind: textMap}},
	"Secrets": {
		"inline":        {kind: object, of: "InlineSecret", list: true},
		"secretManager": {kind: object, of: "SecretManagerSecret", list: true},
	},
	"InlineSecret":        {"envMap": {kind: textMap}, "kmsKeyName": {kind: text, expand: true}},
	"SecretManagerSecret": {"env": {kind: text}, "versionName": {kind: text, expand: true}},
	"Artifacts": {
		"genericArtifacts": {kind: object, of: "GenericArtifact", list: true},
		"goModules":        {kind: object, of: "GoModule", list: true},
		"images":           {kind: text, list: true, expand: true},
		"mavenArtifacts":   {kind: object, of: "MavenArtifact", list: true},
		"npmPackages":      {kind: object, of: "NpmPackage", list: true},
		"objects":          {kind: object, of: "ArtifactObjects"},
		"oci":              {kind: object, of: "Oci", list: true},
		"pythonPackages":   {kind: object, of: "PythonPackage", list: true},
	},
	"ArtifactObjects": {"location": {kind: text, expand: true}, "paths": {kind: text, list: true, expand: true}},
	"GenericArtifact": {"folder": {kind: text, expand: true}, "registryPath": {kind: text, expand: true}},
	"GoModule": {
		"modulePath":          {kind: text, expand: true},
		"moduleVersion":       {kind: text, expand: true},
		"repositoryLocation":  {kind: text, expand: true},
		"repositoryName":      {kind: text, expand: true},
		"repositoryProjectId": {kind: text, expand: true},
		"sourcePath":          {kind: text, expand: true},
	},
	"MavenArtifact": {
		"artifactId":   {kind: text, expand: true},
		"deployFolder": {kind: text, expand: true},
		"groupId":      {kind: text, expand: true},
		"path":         {kind: text, expand: true},
		"repository":   {kind: text, expand: true},
		"version":      {kind: text, expand: true},
	},
	"NpmPackage":    {"packagePath": {kind: text, expand: true}, "repository": {kind: text, expand: true}},
	"PythonPackage": {"paths": {kind: text, list: true, expand: true}, "repository": {kind: text, expand: true}},
	"Oci": {
		"file":         {kind: text, expand: true},
		"registryPath": {kind: text, expand: true},
		"tags":         {kind: text, list: true, expand: true},
	},
	"Dependency": {
		"empty":           {kind: boolean},
		"genericArtifact": {kind: object, of: "GenericArtifactDependency"},
		"gitSource":       {kind: object, of: "GitSourceDependency"},
	},
	"GenericArtifactDependency": {"destPath": {kind: text}, "resource": {kind: text}},
	"GitSourceDependency": {
		"depth":             {kind: int64Text},
		"destPath":          {kind: text},
		"fetchTags":         {kind: boolean},
		"recurseSubmodules": {kind: boolean},
		"repository":        {kind: object, of: "GitSourceRepository"},
		"revision":          {kind: text},
	},
	"GitSourceRepository": {"developerConnect": {kind: text}, "url": {kind: text}},
	"GitConfig":           {"http": {kind: object, of: "HttpConfig"}},
	"HttpConfig":          {"proxySecretVersionName": {kind: text}},

	// A trigger file, as `gcloud builds triggers import` takes it. Fields of the API that this package could not honour are refused by
	// name.
	"BuildTrigger": {
		"description":    {kind: text},
		"disabled":       {kind: boolean},
		"filename":       {kind: text},
		"gitFileSource":  {kind: object, of: "GitFileSource"},
		"github":         {kind: object, of: "GitHubEventsConfig"},
		"ignoredFiles":   {kind: text, list: true},
		"includedFiles":  {kind: text, list: true},
		"name":           {kind: text},
		"serviceAccount": {kind: text},
		"sourceToBuild":  {kind: object, of: "GitRepoSource"},
		"substitutions":  {kind: textMap},
		"tags":           {kind: text, list: true},

		"approvalConfig":         {refuse: "approvals are not supported here"},
		"autodetect":             {refuse: "name the build file with filename"},
		"build":                  {refuse: "inline builds are not supported here: name a build file with filename"},
		"eventType":              {refuse: "only GitHub pushes and pull requests are supported here"},
		"filter":                 {refuse: "CEL filters are not supported here"},
		"includeBuildLogs":       {refuse: "reporting to GitHub is not supported here"},
		"pubsubConfig":           {refuse: "only GitHub pushes and pull requests are supported here"},
		"repositoryEventConfig":  {refuse: "only first-generation GitHub connections (github) are supported here"},
		"developerConnectConfig": {refuse: "only first-generation GitHub connections (github) are supported here"},
		"triggerTemplate":        {refuse: "only GitHub repositories (github) are supported here"},
		"webhookConfig":          {refuse: "only GitHub pushes and pull requests are supported here"},
	},
	"GitHubEventsConfig": {
		"name":                     {kind: text},
		"owner":                    {kind: text},
		"pullRequest":              {kind: object, of: "PullRequestFilter"},
		"push":                     {kind: object, of: "PushFilter"},
		"enterpriseConfigResource": {refuse: "GitHub Enterprise is not supported here"},
		"installationId":           {refuse: "it is set by the service"},
	},
	"GitRepoSource": {
		"ref":                    {kind: text},
		"repoType":               {kind: enum, oneOf: []string{"UNKNOWN", "CLOUD_SOURCE_REPOSITORIES", "GITHUB", "BITBUCKET_SERVER", "GITLAB"}},
		"uri":                    {kind: text},
		"repository":             {refuse: "only first-generation GitHub connections (uri) are supported here"},
		"bitbucketServerConfig":  {refuse: "only GitHub is supported here"},
		"githubEnterpriseConfig": {refuse: "GitHub Enterprise is not supported here"},
	},
	"GitFileSource": {
		"path":                   {kind: text},
		"repoType":               {kind: enum, oneOf: []string{"UNKNOWN", "CLOUD_SOURCE_REPOSITORIES", "GITHUB", "BITBUCKET_SERVER", "GITLAB"}},
		"revision":               {kind: text},
		"uri":                    {kind: text},
		"repository":             {refuse: "only first-generation GitHub connections (uri) are supported here"},
		"bitbucketServerConfig":  {refuse: "only GitHub is supported here"},
		"githubEnterpriseConfig": {refuse: "GitHub Enterprise is not supported here"},
	},
	"PushFilter": {"branch": {kind: text}, "invertRegex": {kind: boolean}, "tag": {kind: text}},
	"PullRequestFilter": {
		"branch": {kind: text},
		// gcloud writes it into every trigger on pull requests. Nobody comments here, so whoever may start a build by commenting does not matter.
		"commentControl": {kind: enum, oneOf: []string{"COMMENTS_DISABLED", "COMMENTS_ENABLED", "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"}},
		"invertRegex":    {kind: boolean},
	},
}
