package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// APIError is an answer of the API server that is not a success.
type APIError struct {
	StatusCode int    // the HTTP status, such as 404
	Message    string // the server's own words
}

func (e *APIError) Error() string {
	return fmt.Sprintf("the API server answered %d: %s", e.StatusCode, e.Message)
}

// Get reads one object or list as the administrator and decodes its JSON into v, unless v is nil. The path begins with a slash and may carry a
// query, as in /api/v1/namespaces/account-maple/pods?labelSelector=app%3Dbackend. An answer other than 200 is an *APIError.
//
// It exists so that the rehearsal can look at the cluster without the eyes of the code it checks, and without client-go.
func (c *Cluster) Get(ctx context.Context, path string, v any) error {
	return c.do(ctx, http.MethodGet, path, nil, v)
}

// bind gives a cluster role to a group.
func (c *Cluster) bind(ctx context.Context, group, role string) error {
	const api = "rbac.authorization.k8s.io"
	binding, err := json.Marshal(map[string]any{
		"apiVersion": api + "/v1", "kind": "ClusterRoleBinding",
		"metadata": map[string]string{"name": group},
		"roleRef":  map[string]string{"apiGroup": api, "kind": "ClusterRole", "name": role},
		"subjects": []map[string]string{{"apiGroup": api, "kind": "Group", "name": group}},
	})
	if err != nil {
		return err
	}
	if err := c.do(ctx, http.MethodPost, "/apis/"+api+"/v1/clusterrolebindings", binding, nil); err != nil {
		return fmt.Errorf("binding the role %s: %w", role, err)
	}
	return nil
}

func (c *Cluster) do(ctx context.Context, method, path string, body []byte, v any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // what arrived is better than nothing
		var status struct{ Message string }
		if json.Unmarshal(text, &status) == nil && status.Message != "" {
			return &APIError{response.StatusCode, status.Message}
		}
		return &APIError{response.StatusCode, string(text)}
	}
	if v == nil {
		_, err := io.Copy(io.Discard, response.Body) // read to the end, so that the connection is used again
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(v); err != nil {
		return fmt.Errorf("decoding %s: %w", path, err)
	}
	return nil
}
