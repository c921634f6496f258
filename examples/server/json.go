package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/distributedcache/cache"
)

// Bounds of the JSON of a request. The deepest there is has 4 levels and the
// widest object 8 names.
const (
	maxJSONDepth  = 8
	maxJSONFields = 16
)

// writeJSON sends v. An error means that the client went away.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

// readBody reads at most limit bytes of a body.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close") // nobody will read the rest
		return nil, refusedf(cache.ErrTooLarge, "body of %d bytes, at most %d are allowed", r.ContentLength, limit)
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, refusedf(cache.ErrTooLarge, "body of more than %d bytes", limit)
	}
	if err != nil {
		return nil, invalidf("reading the body: %v", err)
	}
	return data, nil
}

// readBodyBefore is readBody for a request that occupies one of the few heavy
// places: the body must arrive before ctx ends, not just within readTimeout.
func readBodyBefore(ctx context.Context, w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		// Only a connection has deadlines; without one there is nobody to wait for.
		_ = http.NewResponseController(w).SetReadDeadline(deadline)
	}
	return readBody(w, r, limit)
}

// noBody refuses a body where the route has no use for one.
func noBody(r *http.Request) error {
	if r.ContentLength != 0 {
		return invalidf("this route takes no body")
	}
	return nil
}

// decodeJSON decodes exactly one object into dst. It is strict where
// encoding/json is lenient, because a batch that means something else than its
// sender thought must not be applied: unknown, misspelt and duplicate names,
// nulls, trailing data, excess depth and text that is not Unicode are refused.
func decodeJSON(data []byte, dst any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(dst); err != nil {
		if _, known := errors.AsType[*httpError](err); known || errors.Is(err, cache.ErrInvalid) {
			return err
		}
		return invalidf("body: %v", err)
	}
	return nil
}

// level is one object or array around a token.
type level struct {
	object bool
	name   bool     // the next token of the object is a name
	names  []string // seen in this object
}

// checkJSON refuses what decodeJSON promises to refuse, except unknown names.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) || loneSurrogate(data) {
		return invalidf("body: not valid Unicode; send binary values as base64")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var stack []level
	for first := true; ; first = false {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) && !first && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return invalidf("body: %v", err)
		}
		if !first && len(stack) == 0 {
			return invalidf("body: data after the object")
		}
		if first && token != json.Delim('{') {
			return invalidf("body: want a JSON object")
		}
		if stack, err = step(stack, token); err != nil {
			return err
		}
	}
}

// step returns the stack after token.
func step(stack []level, token json.Token) ([]level, error) {
	if len(stack) > 0 {
		top := &stack[len(stack)-1]
		if name, ok := token.(string); ok && top.object && top.name {
			top.name = false
			return stack, top.add(name)
		}
		top.name = true // after the value that token is or begins
	}
	switch token {
	case nil:
		return stack, invalidf("body: null stands for nothing here; leave the field out")
	case json.Delim('{'), json.Delim('['):
		if len(stack) == maxJSONDepth {
			return stack, invalidf("body: more than %d levels deep", maxJSONDepth)
		}
		return append(stack, level{object: token == json.Delim('{'), name: true}), nil
	case json.Delim('}'), json.Delim(']'):
		stack = stack[:len(stack)-1]
		if len(stack) > 0 {
			stack[len(stack)-1].name = true
		}
	}
	return stack, nil
}

// add notes a name of an object. encoding/json matches names without regard to
// case, so only lower case may pass for a duplicate to be recognized as one.
func (l *level) add(name string) error {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && c != '_' {
			return invalidf("body: unknown field %q", name)
		}
	}
	if slices.Contains(l.names, name) {
		return invalidf("body: field %q is given twice", name)
	}
	if len(l.names) == maxJSONFields {
		return invalidf("body: more than %d fields in one object", maxJSONFields)
	}
	l.names = append(l.names, name)
	return nil
}

// loneSurrogate reports whether data has a \u escape of half a character,
// which encoding/json would replace silently. Escapes occur in strings only;
// anything else about them is left to the decoder.
func loneSurrogate(data []byte) bool {
	for i := 0; i+1 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		r := unicodeEscape(data[i:])
		switch {
		case r < 0:
			i++ // skips the second byte of \\ and \"
		case r < 0xD800 || r > 0xDFFF:
			i += 5
		case r > 0xDBFF:
			return true // the second half without the first
		default:
			if second := unicodeEscape(data[i+6:]); second < 0xDC00 || second > 0xDFFF {
				return true
			}
			i += 11
		}
	}
	return false
}

// unicodeEscape returns the value of the \uXXXX that data starts with, or -1.
func unicodeEscape(data []byte) int {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	v, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return int(v)
}

// keyJSON is a key in a request: its text form "primary:secondary", escaped as
// Key.String does, or an object with both parts as plain strings.
type keyJSON struct{ cache.Key }

// UnmarshalJSON implements json.Unmarshaler.
func (k *keyJSON) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		key, err := cache.ParseKey(text)
		k.Key = key
		return err
	}
	var parts struct {
		Primary   string `json:"primary"`
		Secondary string `json:"secondary"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&parts); err != nil {
		return invalidf("key: want \"primary:secondary\" or {\"primary\": ..., \"secondary\": ...}: %v", err)
	}
	k.Key = cache.K(parts.Primary, parts.Secondary)
	return nil
}

// decodeValue returns the bytes of a value in a request.
func decodeValue(s string, encoded bool) ([]byte, error) {
	if !encoded {
		return []byte(s), nil
	}
	value, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, invalidf("value: %v", err)
	}
	return value, nil
}

// itemJSON is an item in an answer. A missing key has version 0 and no value.
type itemJSON struct {
	Key       string  `json:"key"` // "primary:secondary", escaped as Key.String does
	Value     *string `json:"value,omitempty"`
	Encoding  string  `json:"encoding,omitempty"` // "base64", or absent for plain text
	Version   uint64  `json:"version"`
	ExpiresAt string  `json:"expires_at,omitempty"`
}

// newItemJSON returns the JSON of item. Values that JSON cannot carry as text
// are base64 even if the client did not ask for it.
func newItemJSON(item cache.Item, encoded, keysOnly bool) itemJSON {
	out := itemJSON{Key: item.Key.String(), Version: uint64(item.Version), ExpiresAt: expiry(item)}
	if keysOnly || !item.Exists() {
		return out
	}
	value := string(item.Value)
	if encoded || !utf8.ValidString(value) {
		value = base64.StdEncoding.EncodeToString(item.Value)
		out.Encoding = "base64"
	}
	out.Value = &value
	return out
}
