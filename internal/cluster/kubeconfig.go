package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// KubeconfigError says why a kubeconfig file cannot be used.
type KubeconfigError struct {
	Path string
	Err  error
}

// Error names the file and the reason.
func (e *KubeconfigError) Error() string {
	return fmt.Sprintf("kubeconfig file %s cannot be used: %v", e.Path, e.Err)
}

// Unwrap returns the reason.
func (e *KubeconfigError) Unwrap() error { return e.Err }

// Allowance is something that a kubeconfig may do only when it is allowed to.
type Allowance int

// Exec lets the current context's user start the program that it names for its credentials (an exec plugin). The program runs with the rights
// and the environment of this one, secrets included.
const Exec Allowance = 1

// readKubeconfig reads one file and nothing else: client-go's usual rules also read the environment, the home directory (which steps of a
// build share) and the files of a pod. contextName is used instead of the file's current context, unless it is empty.
func readKubeconfig(path, contextName string, allow ...Allowance) (clientcmdapi.Config, *rest.Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err // the path is in KubeconfigError
		}
		return clientcmdapi.Config{}, nil, err
	}
	file, err := clientcmd.Load(raw)
	if err != nil {
		return clientcmdapi.Config{}, nil, errors.New("it is not a kubeconfig document") // the decoder's error repeats the text, tokens and all
	}
	if contextName != "" {
		if _, ok := file.Contexts[contextName]; !ok {
			return clientcmdapi.Config{}, nil, fmt.Errorf("context %q is not among its contexts", contextName)
		}
		file.CurrentContext = contextName
	}
	if err := checkKubeconfig(file, slices.Contains(allow, Exec)); err != nil {
		return clientcmdapi.Config{}, nil, err
	}
	file.Clusters[file.Contexts[file.CurrentContext].Cluster].LocationOfOrigin = path
	file.AuthInfos[file.Contexts[file.CurrentContext].AuthInfo].LocationOfOrigin = path
	if err := clientcmd.ResolveLocalPaths(file); err != nil { // certificate files stand relative to the kubeconfig
		return clientcmdapi.Config{}, nil, err
	}
	cfg, err := clientcmd.NewNonInteractiveClientConfig(*file, file.CurrentContext, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return clientcmdapi.Config{}, nil, err
	}
	return *file, cfg, nil
}

// checkKubeconfig refuses a current context that is not whole, and, unless exec, credentials that start a program: whoever can write the file could
// run anything in the build (Flux closed the same hole as CVE-2022-24817), and the image holds no program to start.
func checkKubeconfig(file *clientcmdapi.Config, exec bool) error {
	context, ok := file.Contexts[file.CurrentContext]
	switch {
	case file.CurrentContext == "":
		return errors.New("it has no current-context")
	case !ok:
		return fmt.Errorf("its current-context %q is not among its contexts", file.CurrentContext)
	}
	if _, ok := file.Clusters[context.Cluster]; !ok {
		return fmt.Errorf("cluster %q of context %q is not among its clusters", context.Cluster, file.CurrentContext)
	}
	user, ok := file.AuthInfos[context.AuthInfo]
	switch {
	case !ok:
		return fmt.Errorf("user %q of context %q is not among its users", context.AuthInfo, file.CurrentContext)
	case user.Exec != nil && !exec:
		return fmt.Errorf("user %q gets its credentials from the program %q (exec), which is not started unless ALLOW_EXEC is true: use a token or a client certificate", context.AuthInfo, user.Exec.Command)
	case user.AuthProvider != nil:
		return fmt.Errorf("user %q gets its credentials from the auth-provider %q, which is not supported: use a token or a client certificate", context.AuthInfo, user.AuthProvider.Name)
	}
	return nil
}
