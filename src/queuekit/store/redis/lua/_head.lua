-- Put before every operation. KEYS[1] is the prefix of all keys of the namespace; its hash tag keeps them on one node.
-- ARGV: 1 the clock in ms (tests only, '' = the server's), 2 the lease, 3 a name for the epoch should the store be
-- empty, 4 how long ended records stay, 5 dead letters, 6 the first argument of the operation.
local P = KEYS[1]
local NOW = tonumber(ARGV[1])
if not NOW then
  local t = redis.call('TIME')
  NOW = t[1] * 1000 + math.floor(t[2] / 1000)
end
local LEASE, RETENTION, DEAD_TTL = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local OUTBOX = 5000   -- a publication that is not confirmed after so many ms is made again
local DAY = 86400000
local TRIM = 1000     -- of what has expired, so much is cleared away in one step
local RECORD = 1      -- the version of the records that are written here; before it they were not numbered
local JOINED = 2      -- that of jobs whose end means something for others: see _flows.lua

local function A(i) return ARGV[5 + i] end
local function int(n) return string.format('%.0f', n) end
local function job(id) return P .. 'job:' .. id end
