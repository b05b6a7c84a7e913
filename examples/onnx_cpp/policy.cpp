// Acts by a policy that `rlopt export RUN --to onnx --out policy.onnx` wrote.
//
//   policy policy.onnx < observations.txt > actions.txt
//
// A line of the input is one observation: the numbers of every input of the file, in its order, flattened, with spaces
// between. A line of the output is the action.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <iomanip>
#include <iostream>
#include <limits>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// One input: its name, its shape with a batch of one, and the memory that the session reads.
struct Input {
    std::string name;
    std::vector<int64_t> shape;
    ONNXTensorElementDataType type;
    std::vector<float> floats;
    std::vector<double> doubles;
    std::vector<int64_t> integers;
    std::vector<uint8_t> bytes;

    size_t size() const {
        return std::accumulate(shape.begin(), shape.end(), size_t{1}, [](size_t a, int64_t b) { return a * b; });
    }

    template <typename T>
    static Ort::Value tensor(std::vector<T>& data, const std::vector<int64_t>& shape, const Ort::MemoryInfo& memory) {
        return Ort::Value::CreateTensor<T>(memory, data.data(), data.size(), shape.data(), shape.size());
    }

    Ort::Value read(std::istream& line, const Ort::MemoryInfo& memory) {
        std::vector<double> values(size());
        for (double& value : values)
            if (!(line >> value)) throw std::runtime_error("too few numbers for the input " + name);
        switch (type) {
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
                floats.assign(values.begin(), values.end());
                return tensor(floats, shape, memory);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
                doubles = values;
                return tensor(doubles, shape, memory);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
                integers.assign(values.begin(), values.end());
                return tensor(integers, shape, memory);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
                bytes.assign(values.begin(), values.end());
                return tensor(bytes, shape, memory);
            default:
                throw std::runtime_error("the input " + name + " is of a type that this example does not read");
        }
    }
};

void print(const Ort::Value& action) {
    const auto info = action.GetTensorTypeAndShapeInfo();
    const size_t count = info.GetElementCount();
    for (size_t i = 0; i < count; ++i) {
        if (i) std::cout << ' ';
        if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
            std::cout << action.GetTensorData<int64_t>()[i];
        else
            std::cout << action.GetTensorData<float>()[i];
    }
    std::cout << '\n' << std::flush;
}

int run(const char* path) {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "policy");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);  // a small network is fastest so
    Ort::Session session(env, path, options);
    Ort::AllocatorWithDefaultOptions allocator;
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

    std::vector<Input> inputs;
    for (size_t i = 0; i < session.GetInputCount(); ++i) {
        const Ort::TypeInfo type = session.GetInputTypeInfo(i);
        const auto info = type.GetTensorTypeAndShapeInfo();
        Input input{session.GetInputNameAllocated(i, allocator).get(), info.GetShape(), info.GetElementType(), {}, {}, {}, {}};
        input.shape[0] = 1;  // the batch
        inputs.push_back(input);
    }
    const std::string output = session.GetOutputNameAllocated(0, allocator).get();
    std::vector<const char*> names;
    for (const Input& input : inputs) names.push_back(input.name.c_str());
    const char* output_name = output.c_str();

    std::cout << std::setprecision(std::numeric_limits<float>::max_digits10);
    for (std::string text; std::getline(std::cin, text);) {
        std::istringstream line(text);
        std::vector<Ort::Value> values;
        for (Input& input : inputs) values.push_back(input.read(line, memory));
        const auto actions =
            session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &output_name, 1);
        print(actions.front());
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: policy policy.onnx < observations.txt\n";
        return 2;
    }
    try {
        return run(argv[1]);
    } catch (const std::exception& error) {
        std::cerr << "policy: error: " << error.what() << '\n';
        return 1;
    }
}
