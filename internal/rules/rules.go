// Package rules holds no code, only tests of the house itself: who may import whom, that the generated documents are fresh, that the
// templates fit the steps, that the binaries stay small, that docs/workflow.md names tests that exist.
package rules
