// SPDX-License-Identifier: Apache-2.0
// Operations, disk errors and power failures against std::map: what is read is what was written,
// and what comes back after a failure is one state of the commit order, not before the newest that
// was promised.
//
//   input := u8 flags | operation*; an operation is u8 what | u8 key | u8 size
#include <vector>

#include "tests/fuzz/fuzz.hpp"
#include "tools/torture/sim_store.hpp"

namespace kessai::fuzz {
namespace {

using crash::Process;
using crash::Rows;

class World {
 public:
  explicit World(std::uint8_t flags) : flags_(flags) {
    expect(reopen(true), "a store is not made");
  }

  void run(Input& input) {
    for (int n = 0; n < kMostOperations && !input.empty(); ++n) {
      const std::uint8_t what = input.u8();
      const unsigned key = input.u8(), size = input.u8();
      if (!step(what % 16, key, size)) fall_over(what, key);
    }
    fall_over(0, 0);
  }

 private:
  static constexpr int kMostOperations = 200;

  /// False: a disk error ended this opening.
  bool step(unsigned what, unsigned key, unsigned size) {
    const std::string k = "key" + std::string(key % 32, 'k') + std::to_string(key % 64);
    const std::string v(size < 250 ? size : size * 20, static_cast<char>('a' + key % 26));
    switch (what) {
      case 0:
      case 1:
      case 2:
        return put(k, v);
      case 3:
        return remove(k);
      case 4:
        return get(k);
      case 5:
        return scan();
      case 6:
        return commit();
      case 7:
        relaxed_ = !relaxed_;
        return commit();
      case 8:
        return rollback();
      case 9:
        return went(p_->db->checkpoint());
      case 10:
        return close_and_reopen();
      case 11:
        return plan_fault(key, size), true;
      case 12:
        return wait();
      case 13:
        return insert(k, v);
      case 14:
        p_->clock.advance(1'000'000 * (1 + size));
        return true;
      default:
        return false;  // a power failure, or kill -9
    }
  }

  bool reopen(bool create) {
    p_.reset();
    p_.emplace(disk_, flags_ + 1u);
    p_->options.create = create;
    static constexpr std::uint64_t kWindows[] = {0, 4000, 600, 1};
    p_->set_recovery_window(kWindows[flags_ % 4]);
    if (const auto r = p_->open(); !r) return went(r);
    auto tree = p_->db->tree("main");
    if (!went(tree)) return false;
    tree_ = *tree;
    return true;
  }

  /// What a call may answer while a disk error is planned; otherwise only success.
  template <class T>
  bool went(const Result<T>& r) {
    if (r) return true;
    expect(faulty_ && disk_.faults_fired() != 0 &&
               (r.error() == Code::io_error || r.error() == Code::disk_full ||
                r.error() == Code::poisoned || r.error() == Code::unknown_outcome),
           "an error without a reason: " + r.error().message());
    return false;
  }

  bool begin() {
    if (txn_) return true;
    durable_ = !relaxed_;
    auto txn = p_->db->begin({.durability = durable_ ? Durability::durable : Durability::relaxed});
    if (!went(txn)) return false;
    txn_.emplace(std::move(*txn));
    pending_ = states_.back();
    return true;
  }
  bool put(const std::string& k, const std::string& v) {
    if (!begin() || !went(txn_->put(tree_, k, v))) return false;
    pending_[k] = v;
    return true;
  }
  bool insert(const std::string& k, const std::string& v) {
    if (!begin()) return false;
    const auto r = txn_->insert(tree_, k, v);
    if (!r && r.error() != Code::key_exists) return went(r);
    expect(r.has_value() == !pending_.contains(k), "insert misjudges a key");
    pending_.emplace(k, v);
    return true;
  }
  bool remove(const std::string& k) {
    if (!begin()) return false;
    const auto r = txn_->remove(tree_, k);
    if (!r && r.error() != Code::not_found) return went(r);
    expect(r.has_value() == (pending_.erase(k) != 0), "remove misjudges a key");
    return true;
  }
  bool get(const std::string& k) {
    if (!begin()) return false;
    const auto r = txn_->get(tree_, k);
    if (!r && r.error() != Code::not_found) return went(r);
    const auto row = pending_.find(k);
    expect(r ? row != pending_.end() && row->second == *r : row == pending_.end(),
           "get answers something else");
    return true;
  }
  bool scan() {
    if (!begin()) return false;
    auto c = txn_->scan(tree_, {});
    auto row = pending_.begin();
    for (; c.next(); ++row)
      expect(row != pending_.end() && row->first == c.key() && row->second == c.value(),
             "a scan answers another row");
    if (!c.status()) return went(c.status());
    expect(row == pending_.end(), "a scan ends early");
    return true;
  }
  bool commit() {
    if (!begin()) return false;
    states_.push_back(pending_);
    const auto lsn = txn_->commit();
    txn_.reset();
    if (lsn) {
      newest_ = std::max(newest_, *lsn);
      if (durable_ && *lsn != 0) told_ = states_.size() - 1;  // 0: nothing was written
      return true;
    }
    if (lsn.error() != Code::unknown_outcome) states_.pop_back();
    return went(lsn);
  }
  bool wait() {
    if (!went(p_->db->wait_durable(newest_))) return false;
    told_ = states_.size() - 1;
    return true;
  }
  bool rollback() {
    if (!txn_) return true;
    const auto r = txn_->rollback();
    txn_.reset();
    return went(r);
  }
  bool close_and_reopen() {
    txn_.reset();
    const auto r = p_->close();
    if (r) told_ = states_.size() - 1;
    if (!went(r)) return false;
    return reopen(false) && compare();
  }
  void plan_fault(unsigned kind, unsigned skip) {
    static constexpr std::string_view kKinds[] = {"write", "write_durable", "flush",
                                                  "read",  "create",        "resize"};
    io::Fault f;
    f.what = kind % 2 == 0 ? io::Fault::What::io_error : io::Fault::What::disk_full;
    f.kind = kKinds[kind / 2 % std::size(kKinds)];
    f.skip = skip % 32;
    f.after_flush = static_cast<io::Fault::AfterFlush>(kind / 16 % 3);
    disk_.add_fault(std::move(f));
    faulty_ = true;
  }

  /// The process or the power goes; what comes back must be a state.
  void fall_over(unsigned how, unsigned seed) {
    txn_.reset();
    std::optional<io::SimDisk> left;  // by a power failure; else only the process goes
    if (how % 32 >= 16)
      left = disk_.survivor(io::kCrashOutcomes[seed % io::kCrashOutcomes.size()], seed);
    p_.reset();
    if (left) disk_ = std::move(*left);
    disk_.clear_faults();
    faulty_ = false;
    expect(reopen(false), "the store does not open any more");
    expect(compare(), "the store cannot be read any more");
    const auto damage = crash::first_damage(*p_->db);
    expect(!damage, damage ? *damage : "");
  }
  bool compare() {
    const auto found = crash::read_all(*p_->db);
    if (!found) return went(Result<void>(std::unexpected(found.error())));
    const Rows& rows = *found->at("main");
    std::size_t s = states_.size();
    while (s > told_ && states_[s - 1] != rows) --s;
    expect(s > told_ || states_[told_] == rows, "what came back is no state that may");
    states_ = {rows};
    told_ = 0;
    return true;
  }

  const std::uint8_t flags_;
  io::SimDisk disk_{77};
  std::optional<Process> p_;
  Tree tree_;
  std::optional<Transaction> txn_;
  Rows pending_;
  std::vector<Rows> states_{Rows{}};
  std::size_t told_ = 0;
  Lsn newest_ = 0;
  bool faulty_ = false;
  bool relaxed_ = false;  ///< the next transaction is
  bool durable_ = true;   ///< the open one is
};

}  // namespace
}  // namespace kessai::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  kessai::fuzz::Input input(data, size);
  const std::uint8_t flags = input.u8();
  kessai::fuzz::World(flags).run(input);
  return 0;
}
