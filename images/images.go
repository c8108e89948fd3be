// Package images holds one Dockerfile per step and the scripts that build them; its test builds and runs them with a real Docker engine.
package images
