package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// peer is the program that one writes first: go-git's Log of all that is reachable, to find the newest release there, and its Log of all
// that is reachable from that release, to know what came after. It is right, and it prints how many commits came after.
func peer(dir string) error {
	repo, err := git.PlainOpen(dir)
	if err != nil {
		return err
	}
	head, err := repo.Reference("refs/heads/main", true)
	if err != nil {
		return err
	}
	reachable := map[plumbing.Hash]string{}
	if err := each(repo, head.Hash(), func(c *object.Commit) { reachable[c.Hash] = c.Message }); err != nil {
		return err
	}
	type tag struct {
		v release.Version
		h plumbing.Hash
	}
	var tags []tag
	refs, err := repo.Tags()
	if err != nil {
		return err
	}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		v, err := release.Parse(ref.Name().Short())
		if err == nil {
			tags = append(tags, tag{v, ref.Hash()})
		}
		return nil // what is no version is passed over
	})
	if err != nil {
		return err
	}
	slices.SortFunc(tags, func(a, b tag) int { return b.v.Compare(a.v) })
	for _, t := range tags {
		if annotated, err := repo.TagObject(t.h); err == nil {
			c, err := annotated.Commit()
			if err != nil {
				continue
			}
			t.h = c.Hash
		}
		if _, ok := reachable[t.h]; !ok {
			continue
		}
		before := map[plumbing.Hash]bool{}
		if err := each(repo, t.h, func(c *object.Commit) { before[c.Hash] = true }); err != nil {
			return err
		}
		breaking, n := 0, 0
		for h, message := range reachable {
			if !before[h] {
				n++
				if strings.Contains(message, "BREAKING CHANGE") {
					breaking++
				}
			}
		}
		fmt.Printf("%s and %d commits\n", t.v, n)
		return nil
	}
	return errors.New("no release")
}

func each(repo *git.Repository, from plumbing.Hash, f func(*object.Commit)) error {
	log, err := repo.Log(&git.LogOptions{From: from})
	if err != nil {
		return err
	}
	return log.ForEach(func(c *object.Commit) error { f(c); return nil })
}
