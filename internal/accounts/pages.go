package accounts

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Reader puts an inventory together from the pages that a service gives it in. All pages together are one inventory: an id stands once in
// all of them, and a defect in one refuses all.
type Reader struct {
	inventory Inventory
	pages     int
	totals    []total
}

// Next says how to ask for the page that follows: the query parameter, in the spelling of the service, and its value. No token means that
// there is no page after this one.
type Next struct{ Parameter, Token string }

// total is what a page says about the number of accounts in all pages.
type total struct {
	name  string
	line  int
	value string
}

// The members of a page that tell of the next one (AIP-158, in both spellings of Protocol Buffers' JSON), and the parameter each asks for.
var pageTokens = map[string]string{"next_page_token": "page_token", "nextPageToken": "pageToken"}

// Members by which other services tell that there is more, by their folded names. They are not followed, so an inventory that has one which
// means "there is more" is refused.
var (
	moreMembers  = setOf("next", "nextpage", "nextlink", "nextcursor", "nexturl", "nexthref", "nextoffset", "hasmore", "hasnext", "hasnextpage", "more", "continuationtoken", "@odatanextlink", "startingafter")
	pageMembers  = setOf("links", "pagination", "paging", "pageinfo", "meta", "metadata", "page")
	totalMembers = setOf("total", "totalcount", "totalsize", "totalitems", "totalresults")
)

func setOf(names ...string) map[string]bool {
	set := map[string]bool{}
	for _, n := range names {
		set[n] = true
	}
	return set
}

// Add reads one page, and returns how to ask for the next.
func (r *Reader) Add(page []byte) (Next, error) {
	r.pages++
	next, err := r.add(page)
	if err != nil && r.pages > 1 {
		err = fmt.Errorf("page %d: %w", r.pages, err)
	}
	return next, err
}

// Inventory returns what all pages hold.
func (r *Reader) Inventory() (Inventory, error) {
	n := len(r.inventory.Accounts)
	if n == 0 {
		return Inventory{}, errors.New("accounts is empty")
	}
	for _, t := range r.totals {
		if t.value != strconv.Itoa(n) {
			return Inventory{}, fmt.Errorf("line %d: %s says that there are %s accounts, and %d are here: the inventory is not whole", t.line, t.name, t.value, n)
		}
	}
	return r.inventory, nil
}

func (r *Reader) add(page []byte) (next Next, err error) {
	root, err := parseTree(page)
	if err != nil {
		return next, err
	}
	list := root
	if o, ok := root.value.(object); ok {
		if err := lookAlike(o, "accounts", "freezes"); err != nil {
			return next, err
		}
		if next, err = r.more(o); err != nil {
			return next, err
		}
		if list, ok = o.get("accounts"); !ok {
			return next, fmt.Errorf("line %d: there is no member accounts", root.line)
		}
		if freezes, ok := o.get("freezes"); ok && freezes.value != nil {
			more, err := parseFreezes(freezes)
			if err != nil {
				return next, err
			}
			r.inventory.Freezes = append(r.inventory.Freezes, more...)
		}
	}
	items, ok := list.value.([]node)
	if !ok {
		return next, fmt.Errorf("line %d: accounts is %s, want a list", list.line, list.kind())
	}
	if len(items) == 0 && r.pages == 1 && next.Token == "" {
		return next, fmt.Errorf("line %d: accounts is empty", list.line)
	}
	inv := &r.inventory
	if inv.byID == nil {
		inv.byID = make(map[string]int, len(items))
	}
	for i, item := range items {
		a, err := parseAccount(item)
		if err != nil {
			return next, fmt.Errorf("account %d: %w", i+1, err)
		}
		if first, taken := inv.byID[strings.ToLower(a.ID)]; taken {
			return next, fmt.Errorf("account %d: line %d: id %q is taken by account %d (%q): ids differ in more than case", i+1, item.line, a.ID, first+1, inv.Accounts[first].ID)
		}
		inv.byID[strings.ToLower(a.ID)] = len(inv.Accounts)
		inv.Accounts = append(inv.Accounts, a)
	}
	return next, nil
}

// more finds out whether a page is the last one.
func (r *Reader) more(o object) (Next, error) {
	var next Next
	for _, m := range o {
		folded := strings.TrimLeft(fold(m.name), "_")
		parameter, isToken := pageTokens[m.name]
		_, isNumber := m.value.value.(number)
		switch {
		case !isToken && folded == "nextpagetoken":
			return next, fmt.Errorf("line %d: member %q looks like \"next_page_token\" and is not it", m.line, m.name)
		case isToken && m.value.value == nil:
		case isToken:
			token, ok := m.value.value.(string)
			if !ok {
				return next, fmt.Errorf("line %d: %s is %s, want a string", m.line, m.name, m.value.kind())
			}
			if next.Token != "" && token != "" && token != next.Token {
				return next, fmt.Errorf("line %d: %s names another page than its other spelling", m.line, m.name)
			}
			if token != "" {
				next = Next{parameter, token}
			}
		case moreMembers[folded] && !m.value.isNothing():
			return next, fmt.Errorf("line %d: member %q says that this is one page of several: only next_page_token, nextPageToken and a Link header are followed", m.line, m.name)
		case totalMembers[folded] && isNumber:
			r.totals = append(r.totals, total{m.name, m.line, string(m.value.value.(number))})
		case pageMembers[folded]:
			inner, ok := m.value.value.(object)
			if !ok {
				continue
			}
			for _, i := range inner {
				if f := strings.TrimLeft(fold(i.name), "_"); (moreMembers[f] || f == "nextpagetoken") && !i.value.isNothing() {
					return next, fmt.Errorf("line %d: member %q of %q says that this is one page of several: only next_page_token, nextPageToken and a Link header are followed", i.line, i.name, m.name)
				}
			}
		}
	}
	return next, nil
}

// isNothing reports whether a value says "none": null, false, zero, or empty.
func (n node) isNothing() bool {
	switch v := n.value.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case number:
		return strings.Trim(string(v), "0.") == ""
	case []node:
		return len(v) == 0
	case object:
		return len(v) == 0
	}
	return false
}
