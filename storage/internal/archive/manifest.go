package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// FormatVersion is the version of the manifest and of the layout of the
// directory. It only ratchets, and every other one is refused.
const FormatVersion = 1

// ManifestName is the name of the manifest within the directory.
const ManifestName = "MANIFEST.json"

// NodeShard stands for the node's own entries in File.Shard.
const NodeShard base.ShardID = 0xFFFF

// MaxManifestBytes bounds the manifest: 1,025 files of at most 400 bytes each
// stay well below it.
const MaxManifestBytes = 1 << 20

const (
	maxIDBytes = 256 // of a node or cluster id
	// maxDepth is how deep the JSON of a manifest is nested: object, list,
	// object, plus one to be told apart from what is deeper.
	maxDepth = 4
)

// Manifest describes a backup.
type Manifest struct {
	Format     int       `json:"format"`      // FormatVersion
	DataFormat int       `json:"data_format"` // of what is in the files
	Created    time.Time `json:"created"`     // when the cut was made, UTC
	Node       string    `json:"node"`        // whose data it is
	Cluster    string    `json:"cluster"`     // "" if it was in none
	Shards     int       `json:"shards"`
	Files      []File    `json:"files"` // by shard, the node's own last
}

// File describes one file of a backup.
type File struct {
	Name    string       `json:"name"`
	Shard   base.ShardID `json:"shard"`
	Bytes   int64        `json:"bytes"`
	Entries int64        `json:"entries"`
	SHA256  string       `json:"sha256"` // of the file, hexadecimal
	Digest  string       `json:"digest"` // of the contents, hexadecimal
}

// FileName returns the name of the file of a shard.
func FileName(shard base.ShardID) string {
	if shard == NodeShard {
		return "node.stream"
	}
	return fmt.Sprintf("shard-%04d.stream", shard)
}

// shardOf returns the shard of the i-th file of a backup of so many shards.
func shardOf(i, shards int) base.ShardID {
	if i == shards {
		return NodeShard
	}
	return base.ShardID(i)
}

// Validate returns an error that wraps ErrInvalid if m cannot describe a
// backup.
func (m *Manifest) Validate() error {
	switch {
	case m.Format != FormatVersion:
		return fmt.Errorf("%w: backup format %d, only %d can be read", base.ErrInvalid, m.Format, FormatVersion)
	case m.DataFormat < 1 || m.DataFormat > 0xFFFF:
		return fmt.Errorf("%w: data format %d", base.ErrInvalid, m.DataFormat)
	case m.Created.Location() != time.UTC:
		return fmt.Errorf("%w: time of creation %v is not in UTC", base.ErrInvalid, m.Created)
	case len(m.Node) > maxIDBytes || len(m.Cluster) > maxIDBytes:
		return fmt.Errorf("%w: id of %d bytes", base.ErrInvalid, max(len(m.Node), len(m.Cluster)))
	case m.Shards < 1 || m.Shards > base.MaxShards:
		return fmt.Errorf("%w: %d shards", base.ErrInvalid, m.Shards)
	case len(m.Files) != m.Shards+1:
		return fmt.Errorf("%w: %d files for %d shards and the node", base.ErrInvalid, len(m.Files), m.Shards)
	}
	for i := range m.Files {
		if err := m.Files[i].validate(shardOf(i, m.Shards)); err != nil {
			return fmt.Errorf("file %d: %w", i, err)
		}
	}
	return nil
}

func (f *File) validate(shard base.ShardID) error {
	switch {
	case f.Shard != shard:
		return fmt.Errorf("%w: shard %d instead of %d", base.ErrInvalid, f.Shard, shard)
	case f.Name != FileName(shard):
		return fmt.Errorf("%w: name %.80q instead of %q", base.ErrInvalid, f.Name, FileName(shard))
	case f.Bytes < 0 || f.Entries < 0:
		return fmt.Errorf("%w: %d bytes, %d entries", base.ErrInvalid, f.Bytes, f.Entries)
	case !isDigest(f.SHA256) || !isDigest(f.Digest):
		return fmt.Errorf("%w: a digest is not 64 hexadecimal digits in lower case", base.ErrInvalid)
	}
	return nil
}

func isDigest(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha256.Size && hex.EncodeToString(raw) == s
}

// The end of every manifest, of this and all later versions: the SHA-256 of
// everything before it. It makes the whole file one JSON object.
const (
	sealStart = ",\n  \"checksum\": \"sha256:"
	sealEnd   = "\"\n}\n"
	sealBytes = len(sealStart) + 2*sha256.Size + len(sealEnd)
)

// Encode returns the bytes of the manifest file.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", base.ErrInvalid, err)
	}
	data := seal(bytes.TrimSuffix(body, []byte("\n}")))
	if len(data) > MaxManifestBytes {
		return nil, fmt.Errorf("%w: manifest of %d bytes", base.ErrTooLarge, len(data))
	}
	return data, nil
}

func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return fmt.Appendf(bytes.Clone(body), "%s%x%s", sealStart, sum, sealEnd)
}

// DecodeManifest decodes and checks a manifest file. The error wraps
// ErrCorrupt if a single byte is not as Encode wrote it, and ErrInvalid if it
// is intact but of another version.
func DecodeManifest(data []byte) (Manifest, error) {
	body, err := unseal(data)
	if err != nil {
		return Manifest{}, err
	}
	object := append(bytes.Clone(body), "\n}"...)
	if err := checkJSON(object); err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(object, &version); err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	if version.Format != FormatVersion {
		return Manifest{}, fmt.Errorf("%w: backup format %d, only %d can be read", base.ErrInvalid, version.Format, FormatVersion)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(object))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	m.Created = m.Created.UTC()
	again, err := m.Encode()
	if err != nil {
		return Manifest{}, corrupt("%v", err)
	}
	if !bytes.Equal(again, data) {
		return Manifest{}, corrupt("it is not written the way a manifest is")
	}
	return m, nil
}

// unseal returns what is before the checksum, if that is right.
func unseal(data []byte) ([]byte, error) {
	switch {
	case len(data) > MaxManifestBytes:
		return nil, corrupt("more than %d bytes", MaxManifestBytes)
	case len(data) < sealBytes || !bytes.HasSuffix(data, []byte(sealEnd)):
		return nil, corrupt("it does not end with its checksum: cut or edited")
	}
	body, end := data[:len(data)-sealBytes], data[len(data)-sealBytes:]
	if !bytes.Equal(seal(body)[len(body):], end) {
		return nil, corrupt("its checksum does not match: edited or damaged")
	}
	return body, nil
}

// checkJSON refuses what encoding/json would silently accept: a key that
// comes twice in one object, and deep nesting.
func checkJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	type level struct {
		keys  map[string]bool // nil: a list
		value bool            // in an object: a value is due
	}
	var levels []level
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			levels = levels[:len(levels)-1]
			continue
		}
		if n := len(levels); n > 0 && levels[n-1].keys != nil {
			top := &levels[n-1]
			if key, ok := token.(string); ok && !top.value {
				if top.keys[key] {
					return fmt.Errorf("key %.80q comes twice", key)
				}
				top.keys[key], top.value = true, true
				continue
			}
			top.value = false
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{keys: map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		}
		if len(levels) > maxDepth {
			return errors.New("nested too deeply")
		}
	}
}

// corrupt returns the error of a damaged manifest; it names the file.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", base.ErrCorrupt, ManifestName, fmt.Sprintf(format, args...))
}
