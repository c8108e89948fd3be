//go:build !unix

package step

func noCoreDumps() {}
