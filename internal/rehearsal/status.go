package rehearsal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
)

// Row is what one account runs.
type Row struct {
	Account  string // "staging" for the staging deployment
	Channel  string // staging, uat or production: what the account is there for
	Region   string
	Version  string // the tag that its pods run
	Digest   string // the digest that its pods run
	Revision int    // of the Helm release; 0 without a cluster
	Pods     string // ready/all; empty without a cluster
}

// Rows reads what every account runs: from the pods and the release records of the Kubernetes API. Without a cluster it reads what the
// config repo says.
func (w *World) Rows(ctx context.Context) ([]Row, error) {
	raw, err := os.ReadFile(filepath.Join(w.options.Source, "examples", "config", "accounts.yaml"))
	if err != nil {
		return nil, err
	}
	inventory, err := accounts.Parse(raw)
	if err != nil {
		return nil, err
	}
	rows := []Row{{Account: "staging", Channel: "staging", Region: "-"}}
	for _, a := range inventory.Accounts {
		channel := "production"
		if a.IsUAT {
			channel = "uat"
		}
		rows = append(rows, Row{Account: a.ID, Channel: channel, Region: a.Region})
	}
	for i := range rows {
		read := w.readPods
		if w.cluster == nil {
			read = w.readConfig
		}
		if err := read(ctx, &rows[i]); err != nil {
			return nil, fmt.Errorf("reading what %s runs: %w", rows[i].Account, err)
		}
	}
	return rows, nil
}

// podList is what is read of the Kubernetes API's pods.
type podList struct {
	Items []pod `json:"items"`
}

type pod struct {
	Metadata struct {
		DeletionTimestamp string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Containers []struct {
			Image string `json:"image"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		ContainerStatuses []struct {
			Ready bool `json:"ready"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

// has reports whether a container of the pod has the image with a digest.
func (p pod) has(digest string) bool {
	for _, c := range p.Spec.Containers {
		if strings.HasSuffix(c.Image, "@"+digest) {
			return true
		}
	}
	return false
}

// readPods asks the Kubernetes API, not our own records.
func (w *World) readPods(ctx context.Context, row *Row) error {
	namespace := row.Account
	if row.Channel != "staging" {
		namespace = "account-" + row.Account
	}
	var pods podList
	if err := w.cluster.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector=app%3Dbackend", &pods); err != nil {
		return err
	}
	images := map[string]bool{}
	ready, all := 0, 0
	for _, p := range pods.Items {
		if p.Metadata.DeletionTimestamp != "" {
			continue
		}
		all++
		for _, c := range p.Spec.Containers {
			images[c.Image] = true
		}
		if len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Ready {
			ready++
		}
	}
	row.Pods = fmt.Sprintf("%d/%d", ready, all)
	var names []string
	for image := range images {
		rest := strings.TrimPrefix(image, w.image()+":")
		version, digest, _ := strings.Cut(rest, "@")
		names = append(names, version)
		row.Digest = digest
	}
	slices.Sort(names)
	row.Version = strings.Join(names, " and ") // two versions side by side are worth seeing

	var records struct {
		Items []struct {
			Metadata struct {
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
		} `json:"items"`
	}
	if err := w.cluster.Get(ctx, "/api/v1/namespaces/"+namespace+"/secrets?labelSelector=owner%3Dhelm,name%3Dbackend", &records); err != nil {
		return err
	}
	for _, r := range records.Items {
		if n, err := strconv.Atoi(r.Metadata.Labels["version"]); err == nil && n > row.Revision {
			row.Revision = n
		}
	}
	return nil
}

var markedValue = regexp.MustCompile(`(?m)^\s+(tag|digest): (\S+) # \{"\$imagepolicy"`)

// readConfig reads the entry of the config repo's main branch.
func (w *World) readConfig(ctx context.Context, row *Row) error {
	file := "accounts/" + row.Account + "/backend.yaml"
	if row.Channel == "staging" {
		file = "staging/backend.yaml"
	}
	text, err := w.runGit(ctx, w.git.Dir(configRepo), "show", "main:"+file)
	if err != nil {
		return err
	}
	for _, m := range markedValue.FindAllStringSubmatch(text, -1) {
		if m[1] == "tag" {
			row.Version = m[2]
		} else {
			row.Digest = m[2]
		}
	}
	return nil
}

// commits counts the commits on the config repo's main branch.
func (w *World) commits(ctx context.Context) (int, error) {
	out, err := w.runGit(ctx, w.git.Dir(configRepo), "rev-list", "--count", "main")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}
