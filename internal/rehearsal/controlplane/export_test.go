package controlplane

// StartFrom starts other programs than kubeone's.
var StartFrom = start

// PIDs are the ids of the processes of a cluster, for the tests that none is left.
func (c *Cluster) PIDs() []int {
	var pids []int
	for _, p := range c.processes {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// Dir is where the cluster keeps its files.
func (c *Cluster) Dir() string { return c.dir }
