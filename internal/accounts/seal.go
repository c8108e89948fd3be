package accounts

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Sealed returns the decision with a seal: an HMAC-SHA-256 (RFC 2104) of all its members under a key that only the steps know. Whoever can
// write to the workspace or to the config repo, and does not have the key, cannot change the decision unnoticed.
func (d Decision) Sealed(key []byte) (Decision, error) {
	seal, err := d.seal(key)
	d.Seal = seal
	return d, err
}

// CheckSeal reports whether the decision was sealed with this key, and not changed since.
func (d Decision) CheckSeal(key []byte) error {
	if d.Seal == "" {
		return errors.New("the decision has no seal, and DECISION_KEY is set")
	}
	want, err := d.seal(key)
	if err != nil {
		return err
	}
	if !hmac.Equal([]byte(want), []byte(d.Seal)) {
		return errors.New("the seal of the decision is not right: it was changed, or sealed with another DECISION_KEY")
	}
	return nil
}

func (d Decision) seal(key []byte) (string, error) {
	d.Seal = ""
	text, err := json.Marshal(d) // members in the order of the struct, so that the same decision is the same text
	if err != nil {
		return "", fmt.Errorf("encoding the decision: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(text) // a hash does not fail
	return hex.EncodeToString(mac.Sum(nil)), nil
}
