package controlplane

import "encoding/json"

// user is how a kubeconfig proves who it is: with a certificate or with a token. Byte slices are base64 in JSON, as kubeconfigs want them.
type user struct {
	ClientCertificate []byte `json:"client-certificate-data,omitempty"`
	ClientKey         []byte `json:"client-key-data,omitempty"`
	Token             string `json:"token,omitempty"`
}

// kubeconfig is a kubeconfig file for one user of one cluster. It is JSON, which every reader of kubeconfigs takes, as YAML contains it.
func kubeconfig(server string, ca []byte, user user) []byte {
	const name = "rehearsal"
	config, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters":   []any{map[string]any{"name": name, "cluster": map[string]any{"server": server, "certificate-authority-data": ca}}},
		"users":      []any{map[string]any{"name": name, "user": user}},
		"contexts":   []any{map[string]any{"name": name, "context": map[string]any{"cluster": name, "user": name}}},

		"current-context": name,
	}, "", "  ")
	if err != nil {
		panic(err) // strings and bytes always encode
	}
	return append(config, '\n')
}
