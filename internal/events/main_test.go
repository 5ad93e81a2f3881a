//go:build !fuzz

package events

import (
	"os"
	"testing"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

func TestMain(m *testing.M) { os.Exit(brokertest.Main(m)) }
