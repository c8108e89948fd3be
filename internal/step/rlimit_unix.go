//go:build unix

package step

import "syscall"

// noCoreDumps keeps credentials in memory from reaching the disk when the program is aborted.
func noCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
