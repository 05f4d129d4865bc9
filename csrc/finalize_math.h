// From statistics to log-probs, and from log-probs to a preference loss: one token or one pair at a time, in fp64,
// shared by the CPU and the CUDA variant. editcaption_mega/kernels/reference.py has the same formulas in PyTorch.
#pragma once

#include "softmax_math.h"

namespace ecm {

struct Token {
    float log_prob, max, log_sum;  // log_prob = (target - max) - log_sum
    float entropy, mean_logit, argmax;
};

// Merges the parts of one row in order. `record` points at the first part's record of this row, `stride` floats apart
// from the next part's.
template <bool kDetails>
ECM_INLINE Token token_of(const float* record, int64_t parts, int64_t stride, int64_t vocab_size) {
    Partial total = empty_partial();
    float target = -INFINITY;
    for (int64_t part = 0; part < parts; ++part, record += stride) {
        Partial next{record[0], record[1], 0.0, 0.0, 0};
        if (kDetails) {
            next.weighted = record[3];
            next.sum = record[4];
            next.argmax = static_cast<int64_t>(record[5]);
        }
        total = part == 0 ? next : merge(total, next);
        target = record[2] > target ? record[2] : target;  // one part holds it; if it is NaN, so is that part's rest
    }
    Token token{0.0f, total.max, static_cast<float>(log1p(total.rest)), 0.0f, 0.0f, 0.0f};
    // In this order: max + log_sum would round the small part away when logits are large.
    token.log_prob = (target - total.max) - token.log_sum;
    if (kDetails) {
        token.entropy = token.log_sum - static_cast<float>(total.weighted) / static_cast<float>(1.0 + total.rest);
        token.mean_logit = static_cast<float>(total.sum) / static_cast<float>(vocab_size);
        token.argmax = static_cast<float>(total.argmax);
    }
    return token;
}

// A function of z below, and its name in Python, in one order.
enum LossShape : int { kSigmoid, kRobust, kHinge, kIpo, kLossShapes };
inline constexpr const char* kLossShapeNames[kLossShapes] = {"sigmoid", "robust", "hinge", "ipo"};

struct PreferenceLoss {
    int shape;  // LossShape
    bool per_token;  // log-probs per token instead of summed
    double beta;
    double label_smoothing;
    double margin;      // of every pair, on the scale of rewards
    double nll_weight;  // of the chosen answer's mean negative log-likelihood
};

struct Pair {
    double loss;
    double chosen_reward, rejected_reward;
    double chosen_scale, rejected_scale;  // the loss's derivative by each token's log-prob of that answer
};

ECM_INLINE double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(x > 0.0 ? -x : x)); }

ECM_INLINE double sigmoid(double x) {
    const double e = exp(x > 0.0 ? -x : x);
    return (x > 0.0 ? 1.0 : e) / (1.0 + e);
}

// z = reward(chosen) - reward(rejected) - margin, reward = beta * (log-prob - reference), per token if asked.
//   sigmoid   (1 - s) softplus(-z) + s softplus(z)                Rafailov et al. 2023; s > 0: conservative DPO
//   robust    ((1 - s) softplus(-z) - s softplus(z)) / (1 - 2 s)  Chowdhury et al. 2024
//   hinge     max(0, 1 - z)                                       Zhao et al. 2023
//   ipo       ((z - 1/2) / beta)^2                                Azar et al. 2024, eq. 17 (log-probs per token)
ECM_INLINE Pair pair_of(const PreferenceLoss& config, double chosen, double rejected, double reference_chosen,
                        double reference_rejected, double margin, int64_t chosen_length, int64_t rejected_length) {
    const double per_chosen = config.beta / (config.per_token ? static_cast<double>(chosen_length) : 1.0);
    const double per_rejected = config.beta / (config.per_token ? static_cast<double>(rejected_length) : 1.0);
    Pair pair;
    pair.chosen_reward = per_chosen * (chosen - reference_chosen);
    pair.rejected_reward = per_rejected * (rejected - reference_rejected);
    const double z = pair.chosen_reward - pair.rejected_reward - (config.margin + margin);
    const double s = config.label_smoothing;
    double slope;  // the loss's derivative by z
    if (config.shape == kHinge) {
        pair.loss = z < 1.0 ? 1.0 - z : (z == z ? 0.0 : z);
        slope = z < 1.0 ? -1.0 : 0.0;
    } else if (config.shape == kIpo) {
        const double u = (z - 0.5) / config.beta;
        pair.loss = u * u;
        slope = 2.0 * u / config.beta;
    } else {
        const double other = config.shape == kRobust ? -s : s;
        const double norm = config.shape == kRobust ? 1.0 - 2.0 * s : 1.0;
        pair.loss = ((1.0 - s) * softplus(-z) + other * softplus(z)) / norm;
        slope = (other * sigmoid(z) - (1.0 - s) * sigmoid(-z)) / norm;
    }
    const double nll = config.nll_weight == 0.0 ? 0.0 : config.nll_weight / static_cast<double>(chosen_length);
    pair.loss -= nll * chosen;
    pair.chosen_scale = slope * per_chosen - nll;
    pair.rejected_scale = -slope * per_rejected;
    return pair;
}

}  // namespace ecm
