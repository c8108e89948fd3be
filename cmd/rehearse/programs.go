package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/runner"
)

// programs finds what stands for images: every program in the bin folder under its own name, and those of --image, which win.
func programs(s settings) (map[string]runner.Program, error) {
	all := map[string]runner.Program{}
	bin, err := binFolder(s.bin)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(bin)
	if err != nil {
		return nil, fmt.Errorf("reading the folder of programs: %w", err)
	}
	for _, e := range entries {
		file := filepath.Join(bin, e.Name())
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 && e.Name() != "rehearse" {
			all[e.Name()] = runner.Program{Path: file}
		}
	}
	for image, program := range s.images {
		path, err := exec.LookPath(program)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return nil, fmt.Errorf("--image %s=%s: %w", image, program, err)
		}
		all[image] = runner.Program{Path: path}
	}
	return all, nil
}

// binFolder is --bin, else the folder of this program, where make puts it beside the steps.
func binFolder(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the folder of programs: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", fmt.Errorf("finding the folder of programs: %w", err)
	}
	return filepath.Dir(self), nil
}

// contracts asks the program of every step what it reads. Programs named by --image are not asked: they are somebody else's. unknown
// are the images for which there is no program.
func contracts(ctx context.Context, s settings, b *cloudbuild.Build) (all map[string]cloudbuild.StepContract, unknown []string, err error) {
	known, err := programs(s)
	if err != nil {
		return nil, nil, err
	}
	all = map[string]cloudbuild.StepContract{}
	for i := range b.Steps {
		image := b.Image(i, s.substitutions)
		base := cloudbuild.ImageBase(image)
		_, mapped := s.images[base]
		_, mappedWhole := s.images[cloudbuild.ImageRepository(image)]
		_, asked := all[base]
		program, ok := known[base]
		switch {
		case mapped || mappedWhole || asked:
		case !ok:
			unknown = append(unknown, fmt.Sprintf("%s (%s)", b.StepLabel(i), b.Steps[i].Name))
		default:
			if all[base], err = describe(ctx, program.Path); err != nil {
				return nil, nil, err
			}
		}
	}
	return all, unknown, nil
}

// describe runs PROGRAM -describe.
func describe(ctx context.Context, program string) (cloudbuild.StepContract, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var c cloudbuild.StepContract
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-describe")
	cmd.Env, cmd.Stderr = []string{}, &errs
	out, err := cmd.Output()
	if err != nil {
		return c, fmt.Errorf("asking %s what it reads (-describe): %w: %.200s", program, err, strings.TrimSpace(errs.String()))
	}
	if err := json.Unmarshal(out, &c); err != nil || c.Name == "" {
		return c, fmt.Errorf("asking %s what it reads (-describe): the answer is no description of a step", program)
	}
	return c, nil
}
