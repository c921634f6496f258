package main

import (
	"encoding/json"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The histograms tell times apart to three digits, from finestTime to
// longestTime; what is longer counts as that. --timeout may be longer, but then
// a percentile is not what one needs to know.
const (
	finestTime  = 16 * time.Nanosecond
	longestTime = 5 * time.Minute
	digits      = 3
)

// histogram counts times. In JSON it is the compressed form of HdrHistogram V2
// in base64, which other programs read too.
type histogram struct{ *hdrhistogram.Histogram }

func newHistogram() histogram {
	return histogram{hdrhistogram.New(int64(finestTime), int64(longestTime), digits)}
}

func (h histogram) record(d time.Duration) {
	_ = h.RecordValue(int64(min(max(d, 0), longestTime))) // in range, so without error
}

// at returns the time that the part q of all times is not above.
func (h histogram) at(q float64) time.Duration {
	return time.Duration(h.ValueAtPercentile(q * 100))
}

// MarshalJSON implements json.Marshaler.
func (h histogram) MarshalJSON() ([]byte, error) {
	text, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, err
	}
	return json.Marshal(string(text))
}

// UnmarshalJSON implements json.Unmarshaler.
func (h *histogram) UnmarshalJSON(text []byte) error {
	var encoded string
	if err := json.Unmarshal(text, &encoded); err != nil {
		return err
	}
	// Whatever it was made with, it is merged into one of ours.
	decoded, err := hdrhistogram.Decode([]byte(encoded))
	if err != nil {
		return err
	}
	*h = newHistogram()
	h.Merge(decoded)
	return nil
}
