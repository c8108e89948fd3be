package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const plainKubeconfig = `apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1'}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
users: [{name: u, user: {token: canary-token}}]
`

func TestAKubeconfigThatCannotBeUsedSaysWhy(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"an exec plugin", "{token: canary-token}", "{exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [canary], interactiveMode: Never}}", `user "u" gets its credentials from the program "touch" (exec)`},
		{"an auth-provider", "{token: canary-token}", "{auth-provider: {name: gcp}}", `auth-provider "gcp"`},
		{"no current context", "current-context: c", "", "no current-context"},
		{"a context that is not there", "current-context: c", "current-context: d", `current-context "d" is not among its contexts`},
		{"a cluster that is not there", "cluster: k,", "cluster: x,", `cluster "x" of context "c" is not among its clusters`},
		{"a user that is not there", "user: u}", "user: x}", `user "x" of context "c" is not among its users`},
		{"no document", plainKubeconfig, "token: [canary-token", "not a kubeconfig document"},
		{"a certificate that is not there", "{server:", "{certificate-authority: ca.pem, server:", "ca.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(plainKubeconfig, tt.from, tt.to, 1)
			if text == plainKubeconfig {
				t.Fatal("nothing was replaced")
			}
			path := filepath.Join(t.TempDir(), "kubeconfig")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), path, "")
			if _, ok := errors.AsType[*KubeconfigError](err); !ok || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
			if strings.Contains(err.Error(), "canary-token") {
				t.Errorf("the error repeats a token: %v", err)
			}
		})
	}
}

func TestAMissingKubeconfigIsNamed(t *testing.T) {
	_, err := Open(t.Context(), "/nowhere/kubeconfig", "")
	if _, ok := errors.AsType[*KubeconfigError](err); !ok || !errors.Is(err, os.ErrNotExist) || strings.Count(err.Error(), "/nowhere/kubeconfig") != 1 {
		t.Error(err)
	}
}

func TestAnExecPluginOfAnotherContextIsNoReasonToRefuse(t *testing.T) {
	text := strings.Replace(plainKubeconfig, "users: [", "users: [{name: x, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, interactiveMode: Never}}}, ", 1)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readKubeconfig(path, ""); err != nil {
		t.Error(err)
	}
}

func TestAClusterThatDoesNotAnswerIsNotTheKubeconfigsFault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(plainKubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, "")
	if _, ok := errors.AsType[*KubeconfigError](err); ok || err == nil || !strings.Contains(err.Error(), "reaching the Kubernetes API server at https://127.0.0.1:1: ") {
		t.Error(err)
	}
}
