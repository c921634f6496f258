package base

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// RequestID names one request of a caller. A write that carries one is
// applied at most once, however often it is repeated. The zero id means none.
type RequestID [16]byte

// NewRequestID returns a random id.
func NewRequestID() RequestID {
	var id RequestID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand documents it
	return id
}

// IsZero reports whether id is the zero id, which names no request.
func (id RequestID) IsZero() bool { return id == RequestID{} }

// String returns the id as 32 hexadecimal digits.
func (id RequestID) String() string { return hex.EncodeToString(id[:]) }

// ParseRequestID is the inverse of RequestID.String.
func ParseRequestID(s string) (RequestID, error) {
	var id RequestID
	if len(s) != 2*len(id) {
		return RequestID{}, fmt.Errorf("%w: request id of %d characters, want 32 hexadecimal digits", ErrInvalid, len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return RequestID{}, fmt.Errorf("%w: request id is not hexadecimal", ErrInvalid)
	}
	return id, nil
}

// MarshalText encodes the id as String does.
func (id RequestID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText decodes what MarshalText encoded.
func (id *RequestID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseRequestID(string(text))
	return err
}
