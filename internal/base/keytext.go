package base

// MarshalText encodes the key as String does, so that a key in JSON or in a
// log is one string whatever bytes it has. The zero key is the empty text.
func (k Key) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return []byte{}, nil
	}
	return []byte(k.String()), nil
}

// UnmarshalText decodes what MarshalText encoded.
func (k *Key) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*k = Key{}
		return nil
	}
	*k, err = ParseKey(string(text))
	return err
}
