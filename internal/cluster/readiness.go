package cluster

import (
	"fmt"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// judge says from one state of an object whether it is there: status.CurrentStatus, FailedStatus or another, and why.
type judge func(*unstructured.Unstructured) (status.Status, string)

// ready follows kstatus, the rules that Flux and Helm use. A paused Deployment is not waited for, as in Helm. An object that those rules
// cannot read is read as far as it goes.
func ready(o *unstructured.Unstructured) (status.Status, string) {
	if paused, _, _ := unstructured.NestedBool(o.Object, "spec", "paused"); paused && o.GetKind() == "Deployment" {
		return status.CurrentStatus, "paused"
	}
	s, err := status.Compute(o)
	if err != nil {
		return readyAsFarAsItGoes(o)
	}
	return s.Status, s.Message
}

// readyAsFarAsItGoes judges a custom resource whose status has other types than Kubernetes' conventions want (Argo's Rollout writes
// observedGeneration as a text). kstatus gives an error for these, at every state, so that waiting for it would end at the timeout only.
// The rule: the controller has seen this generation, if it says which one it has seen; no condition Stalled is True (that is a failure), no
// condition Reconciling is True, and a condition Ready, if there is one, is True.
func readyAsFarAsItGoes(o *unstructured.Unstructured) (status.Status, string) {
	fields, _ := o.Object["status"].(map[string]any)
	if seen, want := fields["observedGeneration"], fmt.Sprint(o.GetGeneration()); seen != nil && fmt.Sprint(seen) != want {
		return status.InProgressStatus, fmt.Sprintf("its controller has seen generation %v, not yet %s", seen, want)
	}
	list, _ := fields["conditions"].([]any)
	for _, c := range list {
		c, _ := c.(map[string]any)
		is := fmt.Sprint(c["status"])
		text := fmt.Sprintf("%v: %v", c["reason"], c["message"])
		switch {
		case c["type"] == "Stalled" && is == "True":
			return status.FailedStatus, text
		case c["type"] == "Reconciling" && is == "True", c["type"] == "Ready" && is != "True":
			return status.InProgressStatus, text
		}
	}
	return status.CurrentStatus, "its status does not follow the conventions; nothing in it says that it is not ready"
}

func readyOrComplete(o *unstructured.Unstructured) (status.Status, string) {
	if o.GetKind() == "Job" {
		return complete(o)
	}
	return ready(o)
}

func complete(o *unstructured.Unstructured) (status.Status, string) {
	switch o.GetKind() {
	case "Job":
		if reason, message, is := condition(o, "Failed"); is {
			return status.FailedStatus, reason + ": " + message
		}
		if _, _, is := condition(o, "Complete"); is {
			return status.CurrentStatus, "complete"
		}
		return status.InProgressStatus, "not complete"
	case "Pod":
		switch phase, _, _ := unstructured.NestedString(o.Object, "status", "phase"); phase {
		case "Succeeded":
			return status.CurrentStatus, "succeeded"
		case "Failed":
			message, _, _ := unstructured.NestedString(o.Object, "status", "message")
			return status.FailedStatus, "the pod failed: " + message
		default:
			return status.InProgressStatus, "phase " + phase
		}
	}
	return status.CurrentStatus, ""
}

// noPods says why a workload gets no pods at all: a quota, a policy or a missing service account refuses them; "" when nothing does.
func noPods(o *unstructured.Unstructured) string {
	if reason, message, is := condition(o, "ReplicaFailure"); is {
		return reason + ": " + message
	}
	return ""
}

// condition looks for a condition that is True.
func condition(o *unstructured.Unstructured, kind string) (reason, message string, is bool) {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range list {
		c, _ := c.(map[string]any)
		if c["type"] == kind && c["status"] == "True" {
			reason, _ = c["reason"].(string)
			message, _ = c["message"].(string)
			return reason, message, true
		}
	}
	return "", "", false
}
